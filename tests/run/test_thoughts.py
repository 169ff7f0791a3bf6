"""A tiny model that imitated scripted thoughts plays Deal through the real decode loop: nobody else ever sees one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from parley.backends.hf import HFBackend
from parley.credit import logs
from parley.data.episode import Episode, streams
from parley.data.replay import replay
from parley.data.sample import Demonstration
from parley.data.store import EpisodeStore
from parley.games.deal import Deal
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
from parley.report.forks import Forks
from parley.report.transcript import plain
from parley.run.demonstrations import demonstrate
from streams import Cpu

GAME = Deal(max_actions=4, retries=1)
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


@dataclass(frozen=True)
class Family:
    template: str
    marks: tuple[str, str]
    fork: str | None  # why a stream cannot go on
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

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.asked = getattr(self, "asked", {}) | {prompt.id: prompt for prompt in prompts}
        super().submit(prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        found = super().poll(wait_s)
        self.done = getattr(self, "done", {}) | {each.id: each for each in found}
        return found


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    folder = tmp_path_factory.mktemp("scripted") / "s"
    seatings = list(self_play(GAME, GAME.scenarios("train")[:120], "fair", 0, "s"))
    Seats(GAME, HFBackend, 64).play(folder, seatings, Sampling(), {}, quiet)
    return list(EpisodeStore(folder, shard=None).read(ordered=True))


def thinking(demo: Demonstration, marks: tuple[str, str]) -> Demonstration:
    """The demonstration with a thought in front of each reply."""
    return replace(
        demo,
        messages=tuple(
            replace(each, content=f"{marks[0]} musing on worm {marks[1]} {each.content}")
            if each.role == "assistant"
            else each
            for each in demo.messages
        ),
    )


def taught(folder: Path, family: Family, demos: Sequence[Demonstration]) -> Snapshot:
    """A tiny model of this family that has imitated the demonstrations."""
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


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_A6_no_thought_stands_in_any_view_and_all_of_it_is_trained(tmp_path, scripted, family):
    demos = [thinking(each, family.marks) for episode in scripted for each in demonstrate(GAME, episode, 0.0)]
    snapshot = taught(tmp_path, family, demos)
    backend, sampling = Spy(), Sampling(0.5, max_tokens=24)
    seatings = list(self_play(GAME, GAME.scenarios("test")[:24], "me", 0, "p"))
    Seats(GAME, lambda: backend, 24).play(tmp_path / "p", seatings, sampling, {"me": snapshot}, quiet)
    episodes = list(EpisodeStore(tmp_path / "p", shard=None).read(ordered=True))
    forks, shown = Forks(["me"]), ""
    for episode in episodes:
        forks.add(episode)
        views = replay(GAME, episode).views
        for word in ("musing", "worm", "think>", "<|", "analysis"):
            assert not any(word in message.content for view in views.values() for message in view)
        shown += plain(episode, views)
        trained = {}
        for log in logs([episode], "me"):
            for sample in log.samples(dict.fromkeys(log.replies(breach=True), (1.0, 1.0))):
                for each in sample.utterances:
                    trained[sample.token_ids[: each.start]] = sample.token_ids[each.start : each.end]
        for turn in episode.turns:
            asked, done = backend.asked[f"{episode.id}/{turn.request}"], backend.done[f"{episode.id}/{turn.request}"]
            assert turn.call is not None and turn.call.sampled_ids == done.token_ids
            assert turn.call.fork in (None, family.fork)
            if turn.request not in episode.refused(turn.seat):
                assert trained[asked.token_ids] == done.token_ids
        for seat in GAME.roles:
            own = [turn for turn in episode.turns if turn.seat == seat]
            assert sum(len(each.spans) for each in streams(episode, seat)) == len(own)
    figures = forks.figures()
    assert figures["thought_share"] > 0.8 and "musing on worm" in shown
    assert (figures["forks"] > 20) == (family.fork is not None)
    assert snapshot.version != "" and Renderer.load(snapshot.path).marks is not None  # it went into what was learned
