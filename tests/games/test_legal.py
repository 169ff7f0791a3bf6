"""Asking until a reply is legal, and games that go on without a seat."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from parley.credit import FilteredBC, SpagCredit
from parley.data.episode import Call, Episode, Turn
from parley.games import conformance
from parley.games.base import (
    Facts,
    Finish,
    GeneratorMatch,
    Illegal,
    Marks,
    Match,
    Options,
    Out,
    Reply,
    Result,
    Scenario,
    View,
    legal,
)
from parley.games.deal import Deal
from parley.games.splits import SPLITS, belongs, chosen, fine, split, tenths
from parley.system.seeds import derive

ME = "iter_001"


def parse(reply: Reply) -> int | Illegal:
    text = reply.text.strip()
    return int(text) if text in ("1", "2", "3", "4", "5", "6") else Illegal("number", "a number from 1 to 6 please")


# --- until a reply is legal -------------------------------------------------------------------------------------------


def asked(texts: list[tuple[str, Finish]], retries: int) -> tuple[list[Any], Marks, int | Out]:
    """Every request of `legal` to one seat that answers `texts`, the marks, and what came out."""
    view, marks, requests, seen = View("ann", "dice"), Marks(), [], {"n": 1}
    view.tell("roll")
    steps = legal(view, parse, retries, marks, seen, Options(max_tokens=3))
    try:
        requests.append(next(steps))
        for text, finish in texts:
            requests.append(steps.send(Reply(requests[-1].id, text, finish)))
        raise AssertionError("the seat was asked more often than it has texts")
    except StopIteration as end:
        return requests, marks, end.value
    except Out as out:
        return requests, marks, out


def test_an_illegal_reply_is_asked_again_marked_and_told():
    requests, marks, move = asked([("seven", "stop"), ("7", "stop"), (" 6 ", "stop")], retries=2)
    assert move == 6
    assert [(each.id, each.kind) for each in requests] == [("ann.1", "act"), ("ann.2", "retry"), ("ann.3", "retry")]
    assert marks == {"ann.1": {"retry": "number"}, "ann.2": {"retry": "number"}}
    assert [each.observation for each in requests] == [{"n": 1, "error": e} for e in (None, "number", "number")]
    assert {each.options for each in requests} == {Options(max_tokens=3)}
    assert [(each.role, each.content) for each in requests[-1].messages[1:]] == [
        ("user", "roll"),
        ("assistant", "seven"),
        ("user", "a number from 1 to 6 please"),
        ("assistant", "7"),
        ("user", "a number from 1 to 6 please"),
    ]


def test_after_the_last_retry_the_seat_is_out():
    for retries in range(4):
        requests, marks, out = asked([("no", "stop")] * (1 + retries), retries)
        assert isinstance(out, Out) and (out.outcome, out.blame) == ("abort", ("ann",))
        assert len(requests) == len(marks) == 1 + retries


def test_a_view_that_outgrew_the_model_is_no_reply():
    requests, marks, out = asked([("no", "stop"), ("", "context")], retries=3)
    assert isinstance(out, Out) and (out.outcome, out.blame) == ("context", ("ann",))
    assert len(requests) == 2 and list(marks) == ["ann.1"]


def test_records_of_deal_are_those_of_its_first_version():
    """The replies and marks of a match with every fault, as version 1 recorded them."""
    match = Deal(retries=1).match(next(iter(Deal().scenarios("test"))), 0)
    texts = ["[propose] 1 2 3", "[message] hi", "well", "[message] ok", "", "no"]
    requests, told = list(match.start()), []
    for text in texts:
        told.append((requests[0].id, requests[0].kind))
        requests = list(match.step([Reply(requests[0].id, text)]))
    end = match.result()
    assert told == [
        ("first.1", "act"), ("first.2", "retry"), ("second.1", "act"), ("second.2", "retry"), ("first.3", "act"),
        ("first.4", "retry"),
    ]  # fmt: skip
    assert end.marks == {
        "first.1": {"retry": "too_early"}, "second.1": {"retry": "prefix"}, "first.3": {"retry": "prefix"},
        "first.4": {"retry": "prefix"},
    }  # fmt: skip
    assert (end.outcome, end.blame, end.metrics["retries"]) == ("abort", ("first",), {"first": 3, "second": 1})


# --- several to blame -------------------------------------------------------------------------------------------------


class Dice:
    """Three seats name a number from 1 to 6, in turn. Who names none is out, and the others go on: the highest number
    wins, and nobody wins where two are alike."""

    name, version = "dice", 1
    roles = ("ann", "bob", "cid")
    facts = Facts(min_return=-1.0, max_return=1.0, max_requests=6, max_retries=1)

    def scenarios(self, split: str) -> list[Scenario]:
        return [Scenario(f"{split}-{n}", {"n": n}) for n in range(4)]

    def secrets(self, scenario: Scenario) -> Mapping[str, list[str]]:
        return {}

    def scripts(self) -> Mapping[str, Any]:
        return {"fair": lambda request, rng, persona: str(rng.randint(1, 6))}

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self.turns())

    def turns(self):
        marks, named, blame = Marks(), {}, ()
        for seat in self.roles:
            try:
                named[seat] = yield from legal(View(seat, "name a number"), parse, 1, marks)
            except Out as out:
                blame += out.blame
                if out.outcome == "context":
                    return self.over("context", {}, blame, marks)
        return self.over("played", named, blame, marks)

    def over(self, outcome: str, named: Mapping[str, int], blame: tuple[str, ...], marks: Marks) -> Result:
        best = max(named.values(), default=0)
        tied = sum(number == best for number in named.values()) > 1
        words = {seat: "tie" if tied else "win" if number == best else "loss" for seat, number in named.items()}
        words = {seat: words.get(seat, "void") for seat in self.roles}
        returns = {s: -1.0 if s in blame else {"win": 1.0, "loss": -1.0}.get(words[s], 0.0) for s in self.roles}
        return Result(returns, outcome, words, blame, marks=marks)


def played(match: str, texts: Mapping[str, list[str]]) -> Episode:
    """A match of Dice whose seats say `texts`; each reply is one token."""
    game = Dice()
    scenario = game.scenarios("train")[0]
    running, turns = game.match(scenario, 0), list[Turn]()
    left = {seat: list(each) for seat, each in texts.items()}
    requests = running.start()
    while requests:
        (request,) = requests
        text = left[request.seat].pop(0)
        before = [turn for turn in turns if turn.seat == request.seat]
        parent, shared = (before[-1].request, 2 * len(before)) if before else (None, 0)
        call = Call((9,), (100 + len(turns),), (-0.5,), ME, parent, shared)
        turns.append(Turn(request.id, request.seat, request.kind, text, call=call))
        requests = running.step([Reply(request.id, text)])
    seats = dict.fromkeys(game.roles, ME)
    return Episode(match, "dice", 1, scenario, 0, seats, seats, tuple(turns), running.result())


def test_A12_the_kit_passes_a_game_that_goes_on_without_a_seat():
    conformance.check(Dice(), matches=40)


def test_A12_every_seat_that_was_put_out_is_to_blame():
    record = played("m", {"ann": ["x", "y"], "bob": ["4"], "cid": ["", "no"]})
    assert record.result.blame == ("ann", "cid") and record.result.outcome_by_seat["bob"] == "win"
    assert Episode.from_json(record.to_json()) == record
    assert [record.refused(seat) for seat in Dice.roles] == [{"ann.1", "ann.2"}, frozenset(), {"cid.1", "cid.2"}]


def test_A12_a_sloppy_seat_loses_and_its_honest_partners_are_not_void():
    """Over sloppy matches of three: credit takes each honest seat by its own word, and a seat to blame never earns more
    than an honest loser."""
    chance = Random(0)
    rolls = [
        {seat: ["x", "y"] if chance.random() < 0.3 else [str(chance.randint(1, 6))] for seat in Dice.roles}
        for _ in range(200)
    ]
    records = [played(f"m{n:03d}", texts) for n, texts in enumerate(rolls)]
    credit = SpagCredit(role_weights=False, baseline="none")
    told = {(v.match, v.seat): v for v in credit(records, ME).table}
    seen = set()
    for record, texts in zip(records, rolls, strict=True):
        numbers = {seat: int(each[0]) for seat, each in texts.items() if each[0] != "x"}
        best = max(numbers.values(), default=0)
        for seat in Dice.roles:
            alone = list(numbers.values()).count(best) == 1
            honest = ("win" if numbers[seat] == best else "loss") if seat in numbers and alone else "tie"
            wanted = honest if seat in numbers else "break"
            verdict = told[record.id, seat]
            assert verdict.why == wanted + ("" if wanted != "tie" else ", left out"), (record.id, seat)
            assert verdict.score == {"win": 1.0, "loss": -1.0, "break": -1.0, "tie": 0.0}[wanted]
            assert verdict.replies == (
                (f"{seat}.2",) if wanted == "break" else () if wanted == "tie" else (f"{seat}.1",)
            )
            seen.add((wanted, len(record.result.blame)))
    assert {("win", 2), ("loss", 1), ("tie", 1), ("break", 3)} <= seen


def test_A12_no_reply_of_a_seat_to_blame_is_cloned():
    record = played("m", {"ann": ["x", "3"], "bob": ["x", "y"], "cid": ["5"]})
    samples = FilteredBC("all")([record], ME).samples
    ids = [sample.token_ids[each.start] for sample in samples for each in sample.utterances]
    assert ids == [101, 104]  # ann's second reply and cid's


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "shares"), [(tenths, (0.1, 0.1)), (fine, (0.25, 0.15))])
def test_splits_are_told_by_hash_alone(place, shares):
    """Every split, and every order, against a slow reference; a longer list holds out the same."""
    clusters = {f"n{n}": f"c{n // 2}" for n in range(400)}
    for seed in range(5):
        found = split(clusters, seed, *shares, place)
        assert sorted(name for each in found.values() for name in each) == sorted(clusters)
        for part, names in found.items():
            at = [place(seed, clusters[name]) for name in names]
            edges = {"test": (0, shares[1]), "validation": (shares[1], sum(shares)), "train": (sum(shares), 1)}
            low, high = edges[part]
            assert all(low <= each < high for each in at) and names
            assert names == sorted(names, key=lambda name: derive(seed, "order", name))
        less = split({name: clusters[name] for name in list(clusters)[:150]}, seed, *shares, place)
        assert all(set(less[part]) <= set(found[part]) for part in SPLITS)
        assert split(clusters, seed + 1, *shares, place) != found


def test_the_bounds_of_the_splits():
    assert [belongs(n / 10, 0.1, 0.1) for n in (0, 1, 2, 9)] == ["test", "validation", "train", "train"]
    with pytest.raises(ValueError, match="unknown split 'dev', expected one of train, test"):
        chosen({"train": ["a"], "test": []}, "dev", "")
    with pytest.raises(ValueError, match="nothing falls into the split 'test': give more"):
        chosen({"train": ["a"], "test": []}, "test", "give more")
