"""Experts' rollouts as demonstrations: by a game's script, or from a file of trajectories.

The game plays the expert's replies, so that a demonstration has the prompts, observations and protocol of play. Its id
is the scenario's, by which SPIN pairs it with the policy's rollout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ...games.base import Game, Message, Reply, Request, Result, Scenario, Tool, services
from ...games.qa.questions import cluster
from ...games.qa.trajectory import Trajectory
from ...system.files import InputError
from ...system.seeds import derive, rng
from ..formats.skipping import skipped
from ..formats.trajectories import read_rows
from ..sample import Demonstration

Answer = Callable[[Request], str]
Played = tuple[Result, Mapping[str, tuple[Message, ...]]]


@dataclass(frozen=True)
class ScriptRollouts:
    """A data source: rollouts of a script on every scenario of a split, for games with a single role. External tools
    are not called. `seed` seeds the script's random choices."""

    script: str
    seed: int = 0

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The rollouts, in the order of the scenarios. InputError for a game without the script."""
        if len(game.roles) != 1 or self.script not in (known := game.scripts()):
            raise InputError(f"data.script={self.script}: no such script for one role, but {[*known]}")
        players = {game.roles[0]: known[self.script], **services(game)}
        for scenario in game.scenarios(split):
            seed = derive(self.seed, "rollout", scenario.id)

            def answer(request: Request, seed: int = seed) -> str:
                script = players[request.seat]
                if isinstance(script, Tool):  # its ledger and its ceiling are play's
                    raise InputError(
                        f"data.script={self.script}: it asks {request.seat}, which lies outside of the match: use "
                        "game.search=documents"
                    )
                return script(request, rng(seed, request.id), rng(seed, "persona"))

            _, views = rolled(game, scenario, seed, answer)
            yield _demonstration(scenario, views[game.roles[0]])


@dataclass(frozen=True)
class TrajectoryFile:
    """A data source: experts' trajectories (`formats.trajectories`, Alpaca rows), for `game=qa`.

    The game plays the expert's replies; tools return the expert's recorded observations. Of several rows on one
    question the first is used. A row whose replies the game refuses, or whose answer is wrong, is left out with a
    warning.

    held_out  treatment of rows on held-out questions: refuse (InputError), or leave_out
    """

    path: str
    held_out: Literal["refuse", "leave_out"] = "refuse"

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"{self.path} is no file: give experts' trajectories as data.path")
        if self.held_out not in ("refuse", "leave_out"):
            raise InputError(f"data.held_out={self.held_out!r}, expected refuse or leave_out")

    @property
    def files(self) -> dict[str, str]:
        """What it reads."""
        return {"path": self.path}

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The rollouts of a split's questions, in the order of the rows."""
        if game.name != "qa":
            raise InputError(f"{self.path} holds trajectories of question answering, not of {game.name}: use game=qa")
        if split == "train":
            self._check(game)
        wanted = {scenario.cluster: scenario for scenario in game.scenarios(split)}
        why: Counter[str] = Counter()
        for expert in self._rows:
            if (scenario := wanted.pop(cluster(expert.question), None)) is None:
                continue
            result, views = rolled(game, scenario, 0, _recorded(expert))
            if result.outcome == "right" and not result.marks:
                yield _demonstration(scenario, views["agent"])
            else:
                why["illegal" if result.marks else result.outcome] += 1
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(why.items()))
        skipped(self.path, why.total(), len(self._rows), f"replayed by the game: {told}")

    @cached_property
    def _rows(self) -> Sequence[Trajectory]:
        return read_rows(self.path)

    def _check(self, game: Game) -> None:
        """InputError for a row whose question belongs to the evaluation."""
        held = {scenario.cluster: scenario.id for name in ("validation", "test") for scenario in game.scenarios(name)}
        trained = {scenario.cluster for scenario in game.scenarios("train")}
        shared = [number for number, row in enumerate(self._rows) if cluster(row.question) in held.keys() - trained]
        own = set(getattr(game, "files", {}).values())
        if shared and self.held_out == "refuse" and self.path not in own:
            first = held[cluster(self._rows[shared[0]].question)]
            raise InputError(
                f"{self.path}: {len(shared)} rows are questions of the evaluation, the first is row {shared[0]} "
                f"({first}): take them out, or say data.held_out=leave_out"
            )


def rolled(game: Game, scenario: Scenario, seed: int, answer: Answer) -> Played:
    """Plays a match with replies from `answer`: its result, and each seat's view with its own last reply."""
    match = game.match(scenario, seed)
    views: dict[str, tuple[Message, ...]] = {}
    requests = match.start()
    while requests:
        replies = [Reply(request.id, answer(request)) for request in requests]
        for request, reply in zip(requests, replies, strict=True):
            views[request.seat] = (*request.messages, Message("assistant", reply.text, request.id))
        requests = match.step(replies)
    return match.result(), views


def _recorded(expert: Trajectory) -> Answer:
    """The expert's replies and recorded observations, in order; nothing after them."""
    replies, seen = iter(expert.replies), iter(expert.observations)
    return lambda request: next(replies if request.seat == "agent" else seen, "")


def _demonstration(scenario: Scenario, view: Sequence[Message]) -> Demonstration:
    """The rollout as a demonstration: weight on the agent's replies only, except those it was asked to correct."""
    plain = tuple(Message(message.role, message.content) for message in view)
    weights = tuple(float(message.role == "assistant") for message in plain)
    return Demonstration(scenario.id, plain, weights, cluster=scenario.cluster)
