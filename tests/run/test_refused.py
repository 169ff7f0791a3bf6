"""A11: which replies were illegal has one answer, whoever asks, and however little a game marked."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from parley.credit import FilteredBC, SpagCredit
from parley.data.episode import Call, Episode, Turn
from parley.data.formats import messages, openai_chat
from parley.data.formats.spag import played as spag_episode
from parley.data.replay import replay
from parley.games import conformance
from parley.games.base import GeneratorMatch, Match, Reply, Result, Scenario, Turns
from parley.games.taboo import Taboo
from parley.report.transcript import notes
from parley.run.demonstrations import demonstrate

EXAMPLE = Path(__file__).parents[2] / "examples" / "safecracker.py"
ME = "iter_001"
WRONG = ("???", "12", "two words here", "")
SEEDS = range(40)


@pytest.fixture(scope="module")
def example():
    """The example game, and the same game as its author would have it who forgets to hand on the marks."""
    spec = importlib.util.spec_from_file_location("safecracker_refused", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)

    class Forgetful(module.Safecracker):
        def match(self, scenario: Scenario, seed: int) -> Match:
            return GeneratorMatch(self.unmarked(scenario))

        def unmarked(self, scenario: Scenario) -> Turns:
            result: Result = yield from self._turns(scenario.data["code"])
            return replace(result, marks={})

    yield {"example": module.Safecracker(retries=2), "forgetful": Forgetful(retries=2)}
    del sys.modules[spec.name]


def record(game, seed: int, wrong: float = 0.3) -> Episode:
    """A match in which each reply is illegal with the chance `wrong`; a reply is one token, 100 and up."""
    chance, turns = Random(seed), list[Turn]()
    scenario = game.scenarios("train")[seed]
    match = game.match(scenario, seed)
    script = game.scripts()["careful"]
    requests = match.start()
    while requests:
        (request,) = requests
        text = chance.choice(WRONG) if chance.random() < wrong else script(request, chance, chance)
        before = [turn for turn in turns if turn.seat == request.seat]
        parent, shared = (before[-1].request, 2 * len(before)) if before else (None, 0)
        call = Call((9,), (100 + len(turns),), (-0.5,), ME, parent, shared)
        turns.append(Turn(request.id, request.seat, request.kind, text, call=call))
        requests = match.step([Reply(request.id, text)])
    seats = dict.fromkeys(game.roles, ME)
    return Episode(f"m{seed:02d}", game.name, game.version, scenario, seed, seats, seats, tuple(turns), match.result())


def illegal(episode: Episode) -> set[str]:
    """By the rules themselves: no seat of this game may say one of these."""
    return {turn.request for turn in episode.turns if turn.text in WRONG}


def cloned(credit, episode: Episode) -> set[str]:
    """The requests that `credit` trains on with a reward above 0."""
    said = {turn.call.sampled_ids[0]: turn.request for turn in episode.turns}
    return {
        said[sample.token_ids[each.start]]
        for sample in credit([episode], ME).samples
        for each in sample.utterances
        if each.reward > 0
    }


def test_A11_the_kit_refuses_a_game_that_forgets_its_marks(example):
    conformance.check(example["example"], matches=40)
    with pytest.raises(conformance.ConformanceError, match=r"^marks: .* was answered by the retry"):
        conformance.check(example["forgetful"], matches=40)


@pytest.mark.parametrize("name", ["example", "forgetful"])
def test_A11_every_reader_has_the_same_answer(example, name):
    """Imitation, filtered cloning, both exports and the transcript, against the rules; with the marks gone too."""
    game, found = example[name], 0
    for seed in SEEDS:
        episode = record(game, seed)
        wrong = illegal(episode)
        found += len(wrong)
        assert set().union(*(episode.refused(seat) for seat in game.roles)) == wrong
        assert {each for each, note in notes(episode).items() if "refused" in note} == wrong
        legal = {turn.request for turn in episode.turns} - wrong
        views = replay(game, episode).views
        for demo in demonstrate(game, episode, partner_weight=0.5):
            weights = {m.request: w for m, w in zip(demo.messages, demo.weights, strict=True) if m.request}
            assert all(weight == float(request in legal) for request, weight in weights.items())
        for seat, view in views.items():
            log = messages.log(episode, seat, view)
            own = {view[at].request for at in log.rejected}
            assert own == {request for request in wrong if request.startswith(seat)}
            sent = (openai_chat.line(log) or {"messages": []})["messages"]
            assert not {m["content"] for m in sent if m["role"] == "assistant" and m.get("weight") != 0} & set(WRONG)
        if legal:
            assert cloned(FilteredBC("all", reward="one"), episode) == legal
    assert found > 50


@pytest.mark.parametrize("name", ["example", "forgetful"])
@pytest.mark.parametrize("form", ["corrected", "faithful"])
def test_A11_spag_rewards_no_illegal_reply(example, name, form):
    credit = SpagCredit(form=form, baseline="none")
    for seed in SEEDS:
        episode = record(example[name], seed)
        words = {"spy": "win", "agent": "win"}
        episode = replace(episode, result=replace(episode.result, outcome_by_seat=words))
        honest = [turn for turn in episode.turns if turn.seat not in episode.result.blame]
        if legal := {turn.request for turn in honest} - illegal(episode):
            assert cloned(credit, episode) == legal


def test_A11_an_exported_episode_of_taboo_holds_what_was_said():
    """Replies that were asked again are left out. The utterance that broke the rules was said, though it is refused."""
    game, turns = Taboo(judge="legacy", breach="void"), list[Turn]()
    scenario = Scenario("taboo:apple", {"word": "apple"})
    match = game.match(scenario, 0)
    requests = match.start()
    for text in ("", "Hello.", " ", "Hi.", "An apple."):
        turns.append(Turn(requests[0].id, requests[0].seat, requests[0].kind, text))
        requests = match.step([Reply(requests[0].id, text)])
    seats = dict.fromkeys(game.roles, ME)
    result = replace(match.result(), marks={})
    episode = Episode("m", "taboo", game.version, scenario, 0, seats, seats, tuple(turns), result)
    assert spag_episode(episode, game.turns).said == ("Hello.", "Hi.", "An apple.")
    assert spag_episode(episode, game.turns).ending() == ("breach", 3)
    assert episode.refused("attacker") == {"attacker.1", "attacker.3"}
    assert episode.refused("defender") == {"defender.1"}
