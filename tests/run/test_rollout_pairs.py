"""SPIN on whole rollouts with a tool: what is supervised is what was emitted, observations are context, both sides
begin alike; DPO on right against wrong rollouts of one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from random import Random

import pytest
from chat_templates import tokenizer
from parley.credit import Contrast, Demonstrated, NothingKept, SpinPairs
from parley.data.episode import Call, Episode, Turn
from parley.data.sample import Sample, Utterance
from parley.data.sources.rollouts import ScriptRollouts
from parley.games.base import Request, Result, Scenario
from parley.games.qa import QA, TwoHop
from parley.models.demonstrated import Demonstrated as Rendering
from parley.models.renderer import Renderer
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer
from parley.play.tools import service

GAME = QA(TwoHop(), prompt="full", steps=4)


class Typist:
    """A backend whose sampled ids are those of a sloppy script, of nonsense, or of either cut short."""

    busy = True

    def __init__(self, renderer: Renderer) -> None:
        self.renderer, self.waiting, self.emitted = renderer, list[Prompt](), Counter[str]()
        self.script = GAME.scripts()["sloppy"]

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.waiting += prompts

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        done, self.waiting = [self._typed(prompt) for prompt in self.waiting], []
        return done

    def _typed(self, prompt: Prompt) -> Completion:
        chance = Random(prompt.seed)
        request = Request(prompt.request, prompt.seat, prompt.messages, prompt.kind, prompt.options, prompt.observation)
        text = self.script(request, chance, Random(0))
        text = chance.choice(
            ["Thought: é\n" + text, text, text, text, "I do not know", "Observation: it is <|im_end|>"]
        )
        ids = tuple(self.renderer.core.encode(text, add_special_tokens=False).ids)
        cut = chance.random() < 0.05
        ids = ids[: len(ids) // 2 + 1] if cut else (*ids, self.renderer.end or 0)
        self.emitted[prompt.stream] += len(ids)
        text = self.renderer.text(ids if cut else ids[:-1])
        return Completion(prompt.id, text, "length" if cut else "stop", ids, (-1.0,) * len(ids), prompt.policy)

    def cancel(self, ids: Sequence[str]) -> None: ...

    def close(self) -> None: ...

    def forget(self, streams: Sequence[str]) -> None: ...


def supervised(samples: Sequence[Sample]) -> int:
    return sum(each.end - each.start for sample in samples for each in sample.utterances)


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma"])
def test_supervised_tokens_are_the_emitted_tokens_of_1020_rollouts(family: str) -> None:
    renderer = Renderer(tokenizer(family), 4096)
    backend, scenarios = Typist(renderer), GAME.scenarios("train")[:340]
    learner = LanguagePlayer(backend, renderer, "v0", Sampling(max_tokens=200), "learner")
    players = {"learner": learner, "search": service(GAME.services["search"], "search")}
    episodes: list[Episode] = []
    Arena(GAME, players).play(self_play(GAME, scenarios, "learner", 0, "iter_001/play", 1), episodes.append)
    rendering = Rendering(renderer)
    demos = islice(ScriptRollouts("expert").demonstrations(GAME, "train"), 340)
    real = [sample for demo in demos for sample in rendering.samples(demo)]

    credited = SpinPairs()(episodes, "learner", real)
    why = Counter(verdict.why for verdict in credited.table)
    assert set(why) <= {"paired", "identical"} and why["paired"] > 250
    sides: dict[str, dict[int, list[Sample]]] = {}
    for sample in credited.samples:
        sides.setdefault(str(sample.group), {}).setdefault(sample.utterances[0].side, []).append(sample)
    assert not learner.forks and all(len(side) == 1 for each in sides.values() for side in each.values())
    outcomes, tokens = Counter(each.result.outcome for each in episodes), 0
    assert min(outcomes[name] for name in ("right", "wrong", "broken")) > 5  # illegal and cut turns are among them
    for episode in episodes:
        name = f"{episode.id}/agent"
        if name not in sides:
            continue
        (made,), (ours,) = sides[name][-1], sides[name][1]
        assert supervised([made]) == sum(len(turn.call.sampled_ids) for turn in episode.turns if turn.call)
        tokens += supervised([made])
        first = [sample.token_ids[: sample.utterances[0].start] for sample in (made, ours)]
        assert first[0] == first[1]
        for sample in (made, ours):
            said = renderer.core.decode(
                [id for each in sample.utterances for id in sample.token_ids[each.start : each.end]],
                skip_special_tokens=False,
            )
            assert "likes" not in said and "comes from" not in said and "where does" not in said
            assert "tools" not in said  # of the instructions
    assert tokens == sum(backend.emitted[name] for name in sides)


def test_only_failures_are_paired_where_that_is_asked_for() -> None:
    matches = [episode("m0", 1.0), episode("m1", 0.0)]
    real = [Sample("s", (9, 5), (Utterance(1, 2),))]
    both = SpinPairs()(matches, "me", real)
    failures = SpinPairs("failures")(matches, "me", real)
    assert [verdict.why for verdict in both.table] == ["paired", "paired"]
    assert [verdict.why for verdict in failures.table] == ["no failure", "paired"]
    assert {sample.group for sample in failures.samples} == {"m1/agent"}
    with pytest.raises(ValueError, match="only is 'some', expected all or failures"):
        SpinPairs("some")  # type: ignore[arg-type]


def test_a_demonstration_of_several_streams_is_one_side() -> None:
    real = [Sample(f"s/{n}", (9, 5 + n), (Utterance(1, 2),)) for n in range(2)]
    found = SpinPairs()([episode("m0", 0.0)], "me", real).samples
    assert [(each.id, each.utterances[0].side) for each in found] == [
        ("m0/agent/real", 1),
        ("m0/agent/real/1", 1),
        ("m0/agent/0", -1),
    ]
    assert len({each.utterances[0].pair for each in found}) == 1
    tuned = Demonstrated()([episode("m0", 0.0)], "me", real).samples
    assert [each.id for each in tuned] == ["s/0", "s/1"]


def test_the_best_rollout_of_a_question_stands_against_the_worst() -> None:
    matches = [
        episode("m0", 0.0, ("x", "y")), episode("m1", 1.0, ("no", "z"), retried=1), episode("m2", 1.0),
        episode("n0", 1.0, scenario="t"), episode("n1", 1.0, scenario="t"),
        episode("o0", 0.5, scenario="u"), episode("o1", 0.2, scenario="u"),
    ]  # fmt: skip
    found = Contrast()(matches, "me")
    why = {verdict.match: verdict.why for verdict in found.table}
    assert why == {
        "m0": "rejected", "m1": "chosen", "m2": "neither best nor worst", "n0": "all are worth the same",
        "n1": "all are worth the same", "o0": "chosen", "o1": "rejected",
    }  # fmt: skip
    spans = {sample.id: [(each.side, each.start) for each in sample.utterances] for sample in found.samples}
    assert spans == {
        "m1/agent/real": [(1, 4)],
        "m0/agent/0": [(-1, 1), (-1, 4)],
        "o0/agent/real": [(1, 1)],
        "o1/agent/0": [(-1, 1)],
    }  # fmt: skip  (of the better one only what was legal)
    pairs = {
        sample.group: {each.utterances[0].pair for each in found.samples if each.group == sample.group}
        for sample in found.samples
    }
    assert all(len(each) == 1 for each in pairs.values()) and len(set(map(str, pairs.values()))) == 2
    with pytest.raises(NothingKept, match="all are worth the same"):
        Contrast()(matches[3:5], "me")


def episode(match: str, payoff: float, said: Sequence[str] = ("x",), scenario: str = "s", retried: int = 0) -> Episode:
    """The agent says `said`, two tokens each, each behind one new token; its first `retried` replies were illegal."""
    turns, length = [], 0
    for at, text in enumerate(said):
        call = Call((9,), (10 + at, 11), (-0.1, -0.1), "v", f"agent.{at - 1}" if at else None, length)
        turns.append(Turn(f"agent.{at}", "agent", "retry" if 0 < at <= retried else "act", text, call=call))
        length += 3
    marks = {f"agent.{at}": {"retry": "no action"} for at in range(retried)}
    who: Mapping[str, str] = {"agent": "me"}
    result = Result({"agent": payoff}, "over", marks=marks)
    return Episode(match, "qa", 1, Scenario(scenario, {}), 0, who, {"agent": "v"}, tuple(turns), result)
