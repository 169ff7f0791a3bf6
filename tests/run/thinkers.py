"""Tiny models that imitated scripted thoughts, in games: who sees a thought, and what of it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from parley.backends.hf import HFBackend
from parley.credit import logs
from parley.data.episode import Episode, streams
from parley.data.replay import replay
from parley.data.sample import Demonstration
from parley.data.store import EpisodeStore
from parley.games.base import Game, Message
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.models import snapshot as snapshots
from parley.models.demonstrated import Demonstrated
from parley.models.load import load_tokenizer
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import TEMPLATE, Tiny
from parley.objectives.filtered_bc import FilteredBC
from parley.play.pairing import self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.seats import Seats
from parley.run.demonstrations import demonstrate
from streams import Cpu
from transformers import PreTrainedTokenizerBase

HEAD = "{{ bos_token }}{% for m in messages %}{% set said = m['content'] %}"
TAIL = (
    "{{ '<|' + m['role'] + '|>' + said + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DROPS = HEAD + "{% if not loop.last %}{% set said = said.split('</think>')[-1] %}{% endif %}" + TAIL
CHANNELS = (
    HEAD + "{% if m['role'] == 'assistant' %}{% set said = '<|channel|> final <|message|> ' + said %}"
    "{% if m.thinking and loop.last %}{% set said = '<|channel|> analysis <|message|> ' + m.thinking + ' ' + said %}"
    "{% endif %}{% endif %}" + TAIL
)
THINK, CHANNEL = ("<think>", "</think>"), ("<|channel|> analysis <|message|>", "<|channel|> final <|message|>")
THOUGHT = "musing on quux"
WORDS = ("musing", "quux", "analysis")  # a view may hold one of these only where it was said aloud,
SIGNS = ("think>", "<|")  # and never one of these


@dataclass(frozen=True)
class Family:
    """A chat template that thinks, and how it is used. `fork` is why a stream cannot go on."""

    template: str
    marks: tuple[str, str]
    fork: str | None
    keep: bool = True


FAMILIES = {
    "dropped by the template": Family(DROPS, THINK, "thought"),
    "kept by the template": Family(TEMPLATE, THINK, None),
    "kept out by option": Family(TEMPLATE, THINK, "thought", keep=False),
    "channels": Family(CHANNELS, CHANNEL, "thought"),
}
HARDWARE = Cpu(micro_tokens=4096, row_tokens=512, head_chunk=4096)


@contextmanager
def quiet(matches: int, person: bool) -> Iterator:
    yield lambda report: None


class Spy(HFBackend):
    """Remembers what it was asked and what it sampled."""

    asked: dict[str, Prompt]
    done: dict[str, Completion]
    tokenizer: PreTrainedTokenizerBase

    def aloud(self, request: str, close: str) -> str:
        """What stands behind the last closing mark of a reply."""
        return str(self.tokenizer.decode(list(self.done[request].token_ids or ()))).rpartition(close)[2]

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.asked = getattr(self, "asked", {}) | {prompt.id: prompt for prompt in prompts}
        super().submit(prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        found = super().poll(wait_s)
        self.done = getattr(self, "done", {}) | {each.id: each for each in found}
        return found


def scripted(game: Game, folder: Path) -> list[Episode]:
    """Matches of the script `fair` against itself."""
    seatings = list(self_play(game, game.scenarios("train")[:120], "fair", 0, "s"))
    Seats(game, HFBackend, 64).play(folder, seatings, Sampling(), {}, quiet)
    return list(EpisodeStore(folder, shard=None).read(ordered=True))


def taught(folder: Path, family: Family, game: Game, episodes: Sequence[Episode]) -> Snapshot:
    """A tiny model of this family that has imitated the matches, with a thought in front of each reply."""
    demos = [_thinking(each, family.marks) for match in episodes for each in demonstrate(game, match, 0.0)]
    begin = Tiny(width=64, heads=2, layers=2, mlp=128).create(folder / "base", [each.messages for each in demos], 0)
    tokenizer = load_tokenizer(begin.path)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|channel|>", "<|message|>"]})
    tokenizer.chat_template = family.template
    tokenizer.init_kwargs["parley"] = {"thought": family.marks, "keep_thoughts": family.keep}
    tokenizer.save_pretrained(begin.path)
    begin = snapshots.of(begin.path, "tiny")
    rendering = Demonstrated(Renderer.load(begin.path))
    samples = [sample for each in demos for sample in rendering.samples(each)]
    learner = LightningLearner(FilteredBC(), HARDWARE, AdamW(lr=8e-3), epochs=4, batch_utterances=32)
    return learner.learn(samples, begin, folder / "learn", seed=0, name="taught")[0]


def _thinking(demo: Demonstration, marks: tuple[str, str]) -> Demonstration:
    def thought(each: Message) -> Message:
        own = each.role == "assistant"
        return replace(each, content=f"{marks[0]} {THOUGHT} {marks[1]} {each.content}") if own else each

    return replace(demo, messages=tuple(map(thought, demo.messages)))


def played(folder: Path, game: Game, snapshot: Snapshot, matches: int) -> tuple[list[Episode], Spy]:
    """Matches of the snapshot against itself, through the decode loop."""
    backend, scenarios = Spy(), game.scenarios("test")
    backend.tokenizer = load_tokenizer(snapshot.path)
    each = -(-matches // len(scenarios))
    seatings = [s for n in range(each) for s in self_play(game, scenarios, "me", n, f"p{n}")][:matches]
    sampling = Sampling(0.5, max_tokens=24)
    Seats(game, lambda: backend, 24).play(folder, seatings, sampling, {"me": snapshot}, quiet)
    return list(EpisodeStore(folder, shard=None).read(ordered=True)), backend


def faults(game: Game, episode: Episode, backend: Spy, family: Family) -> Iterator[str]:
    """What is wrong with a match: words of a thought in a view, ids that are not those that were sampled, a reply that
    is not trained as it was sampled behind its own prompt, a fork for another reason than the family's."""
    said = [backend.aloud(f"{episode.id}/{turn.request}", family.marks[1]) for turn in episode.turns]
    hidden = [*SIGNS, *(word for word in WORDS if not any(word in each for each in said))]
    for seat, view in replay(game, episode).views.items():
        yield from (f"{seat} sees {word}" for word in hidden if any(word in message.content for message in view))
    trained = _trained(episode)
    for turn in episode.turns:
        asked, done = (held[f"{episode.id}/{turn.request}"] for held in (backend.asked, backend.done))
        if turn.call is None or turn.call.sampled_ids != done.token_ids:
            yield f"{turn.request} has other ids than were sampled"
        elif turn.call.fork not in (None, family.fork):
            yield f"{turn.request} forks: {turn.call.fork}"
        if turn.request not in episode.refused(turn.seat) and trained.get(asked.token_ids) != done.token_ids:
            yield f"{turn.request} is not trained as it was sampled"
    for seat in game.roles:
        own = [turn for turn in episode.turns if turn.seat == seat]
        if sum(len(each.spans) for each in streams(episode, seat)) != len(own):
            yield f"{seat} has replies in no stream, or in two"


def _trained(episode: Episode) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompt -> the ids that are trained behind it."""
    found = {}
    for log in logs([episode], "me"):
        for sample in log.samples(dict.fromkeys(log.replies(breach=True), (1.0, 1.0))):
            for each in sample.utterances:
                found[sample.token_ids[: each.start]] = sample.token_ids[each.start : each.end]
    return found
