"""Players' reply probabilities in every information set of a game: computed if possible, else sampled."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

from ..data.sample import Demonstration
from ..data.store import Matches
from ..games.base import Message
from ..games.questions import Questions
from ..games.scripts import Mixed
from ..games.tree import Info, Policy, Tree
from ..learners.likelihood import logprobs
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.pairing import fixed
from ..play.player import Sampling
from ..system.files import InputError
from .cast import Snapshots
from .demonstrations import rendered_each
from .run import Run

WHOLE = Sampling(temperature=1.0, top_p=1.0, top_k=0)
Counts = Mapping[Info, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Strategy:
    """Players' strategies: `policy` over the legal replies, `mass` (the probability that a reply is legal), and the
    sampled replies (`said`), if any."""

    policy: Policy
    mass: Mapping[Info, float]
    said: Mapping[Info, Sequence[str]]

    def __or__(self, other: Strategy) -> Strategy:
        """The union of strategies of different seats."""
        return Strategy({**self.policy, **other.policy}, {**self.mass, **other.mass}, {**self.said, **other.said})


def scripted(tree: Tree, seat: str, script: Mixed) -> Strategy:
    """The strategy of a script with known probabilities."""
    policy = {info: dict(script.chances(request)) for info, request in tree.requests.items() if info[0] == seat}
    return Strategy(policy, dict.fromkeys(policy, 1.0), {})


def likely(tree: Tree, seat: str, snapshot: Snapshot, hardware: Any) -> Strategy:
    """The strategy of a language model at temperature 1: log p of each legal reply, with its terminator, after the
    prompt of play.

    `mass` sums over the legal replies in the tokenizer's canonical tokens; other tokenizations of the same text are not
    counted, so it is a lower bound. Every rank must call it.
    """
    infos = [info for info in tree.requests if info[0] == seat]
    asked = [(info, reply) for info in infos for reply in tree.replies(info)]
    streams = rendered_each([_chat(f"{at}", *each) for at, each in enumerate(asked)], snapshot)
    found = iter(logprobs([sample for each in streams for sample in each], snapshot, hardware))
    scores = [sum(islice(found, len(each))) for each in streams]
    by_info: dict[Info, dict[str, float]] = defaultdict(dict)
    for (info, reply), score in zip(asked, scores, strict=True):
        by_info[info][reply] = score
    return Strategy(
        {info: _softmax(own) for info, own in by_info.items()}, {i: _mass(o) for i, o in by_info.items()}, {}
    )


def _chat(name: str, info: Info, reply: str) -> Demonstration:
    """A view with a reply, as a demonstration with weight on the reply only."""
    messages = (*info[1], Message("assistant", reply))
    return Demonstration(name, messages, (*[0.0] * len(info[1]), 1.0))


def _softmax(scores: Mapping[str, float]) -> dict[str, float]:
    top = max(scores.values())
    weights = {reply: math.exp(each - top) for reply, each in scores.items()}
    return {reply: each / sum(weights.values()) for reply, each in weights.items()}


def _mass(scores: Mapping[str, float]) -> float:
    return min(sum(math.exp(each) for each in scores.values()), 1.0)


def counted(tree: Tree, said: Counts) -> Strategy:
    """The shares of the legal replies among the sampled texts; uniform if none was legal."""
    policy, mass = {}, {}
    for info, texts in said.items():
        legal = tree.replies(info)
        count = Counter(text for text in texts if text in legal)
        total = count.total()
        policy[info] = {reply: count[reply] / total if total else 1 / len(legal) for reply in legal}
        mass[info] = total / len(texts)
    return Strategy(policy, mass, said)


class Strategies:
    """Determines the strategies of the players at a table.

    `samples` replies are drawn in each information set, except for scripts with known probabilities; with 0
    probabilities are computed, and players for which that is impossible are refused.
    """

    def __init__(self, run: Run, tree: Tree, sampling: Sampling, samples: int) -> None:
        self.run, self.tree, self.sampling, self.samples = run, tree, sampling, samples

    def of(self, table: Mapping[str, str], snapshots: Snapshots, stage: str) -> Strategy:
        """The strategies of the players of `table`; those in `snapshots` and opponents are language models."""
        found = Strategy({}, {}, {})
        for seat in self.tree.seats:
            found |= self._seat(seat, table[seat], snapshots, stage)
        return found

    def _seat(self, seat: str, name: str, snapshots: Snapshots, stage: str) -> Strategy:
        if isinstance(script := self.run.game.scripts().get(name), Mixed):
            return scripted(self.tree, seat, script)
        model = self._model(name, snapshots)
        if self.samples:
            return self._sampled(seat, name, snapshots, stage)
        if model is None or (why := self._unknown(model)):
            reason = "its chances are not stated" if model is None else why
            raise InputError(f"players.{seat}: how {name} plays cannot be computed ({reason}): say task.samples=64")
        return likely(self.tree, seat, model, self.run.config.hardware)

    def _model(self, name: str, snapshots: Snapshots) -> Snapshot | None:
        if name in snapshots:
            return snapshots[name]
        return self.run.parts.opponents[name].snapshot if name in self.run.parts.opponents else None

    def _unknown(self, model: Snapshot) -> str:
        """Why a model's reply probabilities differ from its plain forward pass; "" if they do not."""
        if model.served is not None:
            return "a server scores no text"
        if Renderer.load(model.base or model.path).marks is not None:
            return "the model may think before it speaks"
        if _unlimited(self.sampling) != WHOLE:
            return "eval.sampling is not temperature 1 without truncation"
        return ""

    def _sampled(self, seat: str, name: str, snapshots: Snapshots, stage: str) -> Strategy:
        infos = [info for info in self.tree.requests if info[0] == seat]
        game = Questions([self.tree.requests[info] for info in infos], self.run.game.scripts())
        folder = f"{stage}/asked/{seat}"
        seatings = fixed(game, game.scenarios("test"), {seat: name}, self.run.seed, folder, self.samples)
        inputs = {"players": self.run.versions([name], snapshots), "sampling": asdict(self.sampling)}
        play = partial(self.run.play, folder, seatings, partial(_texts, len(infos)), self.sampling, snapshots, game)
        said = self.run.stage(folder, {**inputs, "samples": self.samples, "game": self.run.node("game")}, play)["said"]
        return counted(self.tree, dict(zip(infos, said, strict=True)))


def _unlimited(sampling: Sampling) -> Sampling:
    """The sampling parameters without the length limit."""
    return Sampling(sampling.temperature, sampling.top_p, sampling.top_k, WHOLE.max_tokens)


def _texts(requests: int, matches: Matches) -> dict[str, Any]:
    """The replies to each request, by number, in the order of the matches."""
    said: list[list[str]] = [[] for _ in range(requests)]
    for episode in matches:
        said[episode.scenario.data["request"]].append(episode.turns[0].text.strip())
    return {"said": said}
