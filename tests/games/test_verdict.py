"""The judge's game: what is asked, which replies are verdicts, and that none stays missing."""

import json
from random import Random

import pytest
from parley.data.episode import Episode
from parley.games import conformance
from parley.games.base import Illegal
from parley.games.verdict import Rubric, Scale, VerdictGame, case, rated, ratings
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Completion

SCALES = {"wit": Scale(0, 10, "how witty"), "tact": Scale(-5, 0)}
CASES = [case(f"c{number}", f"a: hello {number}\nb: bye", ["a", "b"], match=f"m/{number}") for number in range(9)]
GAME = VerdictGame(CASES, Rubric("Judge.", SCALES), retries=2)
GOOD = {"a": {"wit": 3, "tact": -5}, "b": {"wit": 10.0, "tact": 0}}


@pytest.mark.parametrize("name", conformance.CHECKS)
def test_contract(name):
    conformance.CHECKS[name](GAME, matches=20, seed=0)


def played(reply):
    """A match of the first case; `reply(attempt)` is what the judge says."""

    class Says:
        busy = True

        def __init__(self):
            self.open, self.asked = [], []

        def submit(self, prompts):
            self.open += prompts
            self.asked += prompts

        def poll(self, wait_s=0.0):
            open_, self.open = self.open, []
            return [Completion(prompt.id, *reply(len(self.asked) - 1)) for prompt in open_]

        def cancel(self, ids):
            pass

        def close(self):
            pass

    judge, found = Says(), list[Episode]()
    Arena(GAME, {"x": judge}).play(self_play(GAME, CASES[:1], "x", 0, "s"), found.append)
    return judge, found[0].result


def test_the_judge_reads_the_text_and_each_scale():
    judge, _ = played(lambda attempt: (json.dumps(GOOD),))
    system, user = judge.asked[0].messages
    assert system.content == "Judge." and user.content.startswith("a: hello 0\nb: bye\n\nRate a and b")
    assert "- wit, from 0 to 10: how witty\n- tact, from -5 to 0\n" in user.content


def test_a_verdict_is_read_after_some_reasoning_and_stands_in_the_record():
    _, result = played(lambda attempt: (f"Well… {json.dumps({**GOOD, 'why': 'so'})} That is all.",))
    assert rated(result) == {"wit": {"a": 3.0, "b": 10.0}, "tact": {"a": -5.0, "b": 0.0}}
    assert (result.outcome, result.blame, result.metrics) == ("judged", (), {"judged_rate": 1.0, "asked": 1.0})


def changed(seat, scale, value):
    return json.dumps({**GOOD, seat: {**GOOD[seat], scale: value}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"), ("fine", "no JSON"), ("} {", "no JSON"), ("{" * 10_000 + "}", "no JSON"), ("[1]", "no JSON"),
        ("{}", "a rating is missing"), (json.dumps({"a": GOOD["a"]}), "a rating is missing"),
        (json.dumps({**GOOD, "b": [1, 2]}), "a rating is missing"), (changed("a", "wit", "3"), "a rating is missing"),
        (changed("a", "wit", True), "a rating is missing"), (changed("a", "wit", None), "a rating is missing"),
        (changed("b", "wit", 10.01), "out of range"), (changed("b", "tact", 1), "out of range"),
        (changed("b", "wit", float("nan")), "out of range"), (changed("b", "wit", float("inf")), "out of range"),
        (changed("b", "tact", -(10**400)), "out of range"),
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_refused_with_a_reason(text, reason):
    found = ratings(text, ["a", "b"], SCALES)
    assert isinstance(found, Illegal) and found.reason == reason
    judge, result = played(lambda attempt: (text if attempt == 0 else json.dumps(GOOD),))
    assert result.outcome == "judged" and result.metrics["asked"] == 2.0 and judge.asked[1].kind == "retry"
    assert result.marks["judge.1"] == {"retry": reason} and "scores" in result.marks["judge.2"]


def test_a_verdict_that_never_comes_is_missing():
    for reply, outcome, asked in ((("hm",), "abort", 3), (("", "context"), "context", 1)):
        judge, result = played(lambda attempt, reply=reply: reply)
        assert rated(result) is None and len(judge.asked) == asked
        assert (result.outcome, result.blame, result.metrics["judged_rate"]) == (outcome, ("judge",), 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_every_number_in_range_is_read_as_it_was_said(seed):
    draw = Random(seed)
    said = {seat: {name: draw.uniform(each.low, each.high) for name, each in SCALES.items()} for seat in "ab"}
    found = ratings(json.dumps(said, indent=draw.choice([None, 2])), ["a", "b"], SCALES)
    assert found == {name: {seat: said[seat][name] for seat in "ab"} for name in SCALES}


def test_a_rubric_that_rates_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one scale"):
        Rubric("x", {})
    with pytest.raises(ValueError, match="low must be below high"):
        Scale(3, 3)
