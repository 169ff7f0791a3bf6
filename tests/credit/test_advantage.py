"""Advantages against a slow reference on random rounds, worked numbers, illegal replies, and the state over rounds."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parley.credit import Advantage, Contrast, NothingKept, SpagCredit
from parley.data.episode import Call, Episode, Turn
from parley.games.base import Result, Scenario
from parley.system.files import InputError

ME, OTHER = "learner", "start"


def match(
    name: str, returns: dict[str, float], lengths: list[tuple[str, int]], scenario: str = "s",
    players: dict[str, str] | None = None, **result: Any,
) -> Episode:  # fmt: skip
    """A match of turns (seat, tokens); the requests are named by number."""
    turns, last = [], dict[str, str]()
    size = dict.fromkeys(returns, 0)
    for number, (seat, tokens) in enumerate(lengths):
        request, ids = f"r{number}", tuple(range(100 * number, 100 * number + tokens))
        call = Call((9,), ids, (-0.5,) * tokens, "v", last.get(seat), size[seat])
        turns.append(Turn(request, seat, "act", "text", call=call))
        last[seat], size[seat] = request, size[seat] + 1 + tokens
    result = {"outcome": "over", **result}
    seats = players or dict.fromkeys(returns, ME)
    versions = dict.fromkeys(returns, "v")
    return Episode(name, "game", 1, Scenario(scenario, {}), 0, seats, versions, tuple(turns), Result(returns, **result))


def of(credit: Advantage, matches: list[Episode], state: Any = None) -> tuple[dict[tuple[str, str], list[float]], Any]:
    """(match, seat) -> the advantages of its replies that are trained on, and the state."""
    given = credit(matches, ME, state=state)
    found: dict[tuple[str, str], list[float]] = {}
    for sample in given.samples:
        name, seat, _ = sample.id.rsplit("/", 2)
        found.setdefault((name, seat), []).extend(each.reward for each in sample.utterances)
        assert all(each.weight == 1.0 and each.kind == "act" for each in sample.utterances)
    return found, given.state


def random_round(seed: int) -> list[Episode]:
    draw = random.Random(seed)
    matches = []
    for scenario in range(draw.randint(1, 4)):
        for number in range(draw.randint(1, 5)):
            lengths = [(draw.choice("ab"), draw.randint(1, 5)) for _ in range(draw.randint(2, 8))]
            returns = {seat: draw.choice([-1.0, 0.0, 0.1, 2.5, draw.random()]) for seat in "ab"}
            marks = {f"r{at}": {"shaped": draw.random()} for at in range(len(lengths)) if draw.random() < 0.8}
            players = {"a": ME, "b": draw.choice([ME, OTHER, "fair"])}
            matches.append(match(f"m{scenario}{number}", returns, lengths, f"s{scenario}", players, marks=marks))
    return matches


@pytest.mark.parametrize("credit", [Advantage(), Advantage(of="reply", baseline="ema", by=("seat",), zeros=True),
                                    SpagCredit(), SpagCredit(form="faithful"), Contrast()])  # fmt: skip
def test_A16_replies_without_a_positive_reward_are_not_worth_imitating(credit):
    for seed in range(20):
        words = {"a": "win", "b": "loss"} if seed % 2 else {"a": "loss", "b": "tie"}
        matches = [
            replace(each, result=replace(each.result, outcome_by_seat=words, blame=("a",) if at % 3 == 2 else ()))
            for at, each in enumerate(random_round(seed))
        ]
        try:
            given = credit(matches, ME)
        except NothingKept:
            continue
        trained = {(id.rsplit("/", 2)[0], id.rsplit("/", 2)[1]): list(spans) for id, spans in (
            (sample.id, sample.utterances) for sample in given.samples
        )}  # fmt: skip
        for verdict in given.table:
            spans = trained.pop((verdict.match, verdict.seat), [])
            if spans:  # those of a pair are missing if its other side has no reply
                good = [
                    request for request, each in zip(verdict.replies, spans, strict=True)
                    if (each.side == 1 if each.side else each.reward > 0)
                ]  # fmt: skip
                assert list(verdict.good) == good
        assert not trained


# --- the slow reference: one reply at a time, straight from the definitions ---


def slow(credit: Advantage, matches: list[Episode], state: Any) -> tuple[dict[tuple[str, str], list[float]], Any]:
    rows: list[dict[str, Any]] = []  # one for each reply, in order of match, seat, time
    for each in sorted(matches, key=lambda each: each.id):
        for seat in sorted(each.players):
            if each.players[seat] != ME:
                continue
            own = [turn for turn in each.turns if turn.seat == seat]
            earned = []
            for turn in own:
                mark = each.result.marks.get(turn.request, {}).get("shaped", 0.0) if credit.turn_reward else 0.0
                earned.append(mark - credit.turn_cost - credit.token_cost * len(turn.call.sampled_ids))
            if own:
                earned[-1] += each.result.returns[seat]
            for at, turn in enumerate(own):
                follows = sum(credit.discount ** (i - at) * r for i, r in enumerate(earned) if i >= at)
                names = {s: p for s, p in each.players.items() if s != seat}
                key = {"scenario": each.scenario.id, "seat": seat, "opponents": str(names), "turn": at}
                rows.append(
                    {"log": (each.id, seat), "left": len(own) - 1 - at, "key": tuple(key[part] for part in credit.by),
                     "x": sum(earned) if credit.of == "match" else follows, "n": len(turn.call.sampled_ids), "at": at}
                )  # fmt: skip

    def counted(key: Any = None) -> list[float]:
        chosen = [row for row in rows if key is None or row["key"] == key]
        if credit.of == "reply":
            return [row["x"] for row in chosen]
        return list({(row["log"], row["key"]): row["x"] for row in chosen}.values())

    running, found = {tuple(key.split()): value for key, value in (state or {}).items()}, {}
    for row in rows:
        x, peers = row["x"], counted(row["key"])
        if credit.baseline == "mean":
            a = x - sum(peers) / len(peers)
        elif credit.baseline == "leave_one_out":
            a = x - (sum(peers) - x) / (len(peers) - 1) if len(peers) > 1 else 0.0
        elif credit.baseline == "ema":
            before = running.get((row["key"], "held", row["log"]))
            if before is None:  # the first reply of its log: what the log is compared with is read before it moves
                before = running.get(row["key"], 0.0)
                running[row["key"], "held", row["log"]] = before
            a = x - before
        else:
            a = x
        if credit.of == "match":
            a *= credit.discount ** row["left"]
        if credit.scale == "group":
            a /= (statistics.stdev(peers) if len(peers) > 1 else 0.0) + credit.eps
        if credit.scale == "batch":
            a /= (statistics.stdev(counted()) if len(counted()) > 1 else 0.0) + credit.eps
        row["a"] = a
        last = row["left"] == 0
        if credit.baseline == "ema" and last:
            values = [x] if credit.of == "match" else [other["x"] for other in rows if other["log"] == row["log"]]
            for value in values:
                running[row["key"]] = credit.decay * running.get(row["key"], 0.0) + (1 - credit.decay) * value
    if credit.scale == "tokens":
        every = [row["a"] for row in rows for _ in range(row["n"])] or [0.0]
        centre, spread = statistics.mean(every), statistics.stdev(every) if len(every) > 1 else 0.0
        for row in rows:
            row["a"] = (row["a"] - centre) / (spread + credit.eps)
    for row in rows:
        found.setdefault(row["log"], []).append(row["a"])
    return found, {" ".join(key): value for key, value in running.items() if "held" not in key}


CREDITS = [
    Advantage(zeros=True),
    Advantage(zeros=True, scale="group", eps=1e-4),
    Advantage(zeros=True, baseline="leave_one_out"),
    Advantage(zeros=True, baseline="leave_one_out", by=["seat"], discount=0.9, turn_cost=0.1),
    Advantage(zeros=True, by=[], scale="batch"),
    Advantage(zeros=True, by=["seat"], of="reply", discount=0.8, turn_reward="shaped"),
    Advantage(zeros=True, by=["seat", "turn"], of="reply", token_cost=0.05),
    Advantage(zeros=True, by=["seat", "turn"], scale="group"),
    Advantage(zeros=True, baseline="none", scale="tokens", of="reply", discount=0.95, turn_reward="shaped"),
    Advantage(zeros=True, baseline="ema", by=["seat"]),
    Advantage(zeros=True, baseline="ema", by=["seat"], of="reply", decay=0.5, turn_cost=0.2),
    Advantage(zeros=True, baseline="none"),
]


@pytest.mark.parametrize("credit", CREDITS, ids=str)
def test_advantages_equal_the_slow_reference(credit: Advantage) -> None:
    state = None
    for seed in range(40):
        matches = random_round(seed)
        expected, after = slow(credit, matches, state)
        if not expected:
            continue
        found, given = of(credit, random.Random(seed).sample(matches, len(matches)), state)
        assert found.keys() == expected.keys()
        for log, values in expected.items():
            assert found[log] == pytest.approx(values, abs=1e-9), (seed, log)
        if credit.baseline == "ema":
            state = json.loads(json.dumps(given))
            assert state == pytest.approx(after)
        else:
            assert given is None


# --- worked by hand ---

PAIR = [
    match("m1", {"a": 8.0, "b": 2.0}, [("a", 2), ("b", 1), ("a", 1)]),
    match("m2", {"a": 0.0, "b": 2.0}, [("a", 1), ("b", 1)]),
]


def test_worked_numbers() -> None:
    """Returns of a: 8 and 0 (mean 4, deviation 5.657); both of b: 2."""
    assert of(Advantage(), PAIR)[0] == {("m1", "a"): [4.0, 4.0], ("m2", "a"): [-4.0]}
    assert of(Advantage(discount=0.5), PAIR)[0] == {("m1", "a"): [2.0, 4.0], ("m2", "a"): [-4.0]}
    assert of(Advantage(baseline="leave_one_out"), PAIR)[0] == {("m1", "a"): [8.0, 8.0], ("m2", "a"): [-8.0]}
    assert of(Advantage(scale="group", eps=1e-12), PAIR)[0]["m1", "a"] == pytest.approx([0.5**0.5] * 2)
    assert of(Advantage(zeros=True), PAIR)[0]["m1", "b"] == [0.0]
    found, state = of(Advantage(baseline="ema", by=["seat"], decay=0.75), PAIR)
    assert found == {("m1", "a"): [8.0, 8.0], ("m1", "b"): [2.0], ("m2", "a"): [-2.0], ("m2", "b"): [1.5]}
    assert state == {"a": 1.5, "b": 0.875}


def test_the_same_return_is_no_advantage_whatever_its_rounding() -> None:
    for score in (0.1, 0.7, 1 / 3, 5 / 7):
        for matches in range(2, 9):
            played = [match(f"m{each}", {"a": score, "b": -score}, [("a", 1), ("b", 2)]) for each in range(matches)]
            for credit in (
                Advantage(),
                Advantage(baseline="leave_one_out", scale="group"),
                Advantage(by=["seat"], scale="tokens"),
            ):
                with pytest.raises(NothingKept, match="equal to its baseline"):
                    credit(played, ME)


def test_a_stronger_opponent_is_not_credit() -> None:
    """Against each opponent every match ends alike: only keys that leave the opponent out see an advantage."""
    weak, strong = ({"a": ME, "b": name} for name in ("weak", "strong"))
    played = [
        match(f"m{at}{name['b']}", {"a": score, "b": 0.0}, [("a", 1), ("b", 1)], players=name)
        for at in range(2)
        for name, score in ((weak, 9.0), (strong, 1.0))
    ]
    with pytest.raises(NothingKept):
        Advantage()(played, ME)
    assert of(Advantage(by=["scenario", "seat"]), played)[0]["m0weak", "a"] == [4.0]


# --- illegal replies ---


def forfeited(name: str, score: float, retried: bool = False) -> Episode:
    """Seat a speaks twice; its last reply put it out, or its first was refused."""
    made = match(name, {"a": score, "b": 0.0}, [("a", 2), ("a", 1), ("b", 1)])
    if retried:
        return replace(made, result=replace(made.result, marks={"r0": {"retry": "no such item"}}))
    return replace(made, result=replace(made.result, blame=("a",)))


def test_illegal_replies_lose_the_stated_amount() -> None:
    played = [forfeited("m1", 0.0), match("m2", {"a": 4.0, "b": 0.0}, [("a", 1), ("b", 1)]), forfeited("m3", 8.0, True)]
    found, _ = of(Advantage(illegal=2.0), played)
    assert found == {("m1", "a"): [-4.0, -6.0], ("m3", "a"): [-2.0, 4.0]}  # mean 4; the refused reply gains nothing
    found, _ = of(Advantage(illegal=None), played)
    assert found == {("m1", "a"): [-4.0], ("m3", "a"): [4.0]}


def test_where_every_match_is_forfeited_something_still_pushes_back() -> None:
    played = [forfeited(f"m{at}", 0.0) for at in range(4)]
    assert of(Advantage(), played)[0] == {(f"m{at}", "a"): [-1.0] for at in range(4)}
    with pytest.raises(NothingKept):
        Advantage(illegal=None)(played, ME)


# --- branches ---


def test_a_branched_turn_is_compared_with_its_continuations() -> None:
    """The root pays a 6; from its second turn of a on, three branches pay 0, 3 and 9: what follows is compared with
    4.5, what came before with the other root, which paid 2."""
    turns = [("a", 2), ("b", 1), ("a", 1), ("b", 1)]
    root, other = match("m1", {"a": 6.0, "b": 1.0}, turns), match("m2", {"a": 2.0, "b": 1.0}, turns)
    branches = [
        replace(match(f"x{at}", {"a": score, "b": 1.0}, turns), parent=("m1", 2))
        for at, score in enumerate([0.0, 3.0, 9.0])
    ]
    credit = Advantage(by=["scenario", "seat", "opponents", "prefix"])
    found, _ = of(credit, [root, other, *branches])
    assert found == {
        ("m1", "a"): [2.0, 1.5], ("m2", "a"): [-2.0, -2.0], ("x0", "a"): [-4.5], ("x1", "a"): [-1.5], ("x2", "a"): [4.5]
    }  # fmt: skip
    assert of(credit, [root, other])[0] == of(Advantage(), [root, other])[0]


# --- what is left out, and what is refused ---


def test_only_the_named_player_is_credited_and_its_opponents_do_not_count() -> None:
    played = [
        match(f"m{at}", {"a": float(at), "b": 100.0}, [("a", 1), ("b", 1)], players={"a": ME, "b": OTHER})
        for at in (0, 2)
    ]
    assert of(Advantage(by=[]), played)[0] == {("m0", "a"): [-1.0], ("m2", "a"): [1.0]}


def test_scores_by_name_and_missing_ones() -> None:
    played = [replace(each, result=replace(each.result, metrics={"share": {"a": at}})) for at, each in enumerate(PAIR)]
    assert of(Advantage(score="share"), played)[0] == {("m1", "a"): [-0.5, -0.5], ("m2", "a"): [0.5]}
    with pytest.raises(InputError, match=r"no such metric; it has \['share'\]"):
        Advantage(score="shares")(played, ME)
    with pytest.raises(InputError, match="turn_reward='bonus': no reply"):
        Advantage(turn_reward="bonus")(played, ME)
    nothing = match("m3", {"a": float("nan"), "b": float("nan")}, [("a", 1), ("b", 1)])
    assert of(Advantage(), [*PAIR, nothing])[0] == of(Advantage(), PAIR)[0]


def test_settings_that_have_no_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="kept over rounds by seat"):
        Advantage(baseline="ema")
    with pytest.raises(ValueError, match="discount is 0"):
        Advantage(discount=0)


# --- what peers' own functions gave ---

PEERS = json.loads((Path(__file__).parents[1] / "fixtures/peers.json").read_text())
LIKE = {
    ("verl", "grpo"): Advantage(zeros=True, scale="group"),
    ("verl", "dr_grpo"): Advantage(zeros=True),
    ("verl", "rloo"): Advantage(zeros=True, baseline="leave_one_out"),
    ("verl", "reinforce_pp"): Advantage(zeros=True, baseline="none", scale="tokens", eps=1e-12),
    ("marshal", "marshal"): Advantage(
        zeros=True, by=["scenario"], of="reply", scale="tokens", eps=1e-12
    ),  # a player each
    ("spiral", "rae"): Advantage(zeros=True, baseline="ema", by=["seat"]),
}


@pytest.mark.parametrize(("peer", "name"), LIKE)
def test_advantages_are_those_of_peers(peer: str, name: str) -> None:
    given = PEERS["inputs"]
    played = [
        match(f"m{at}", {"a": reward, "b": 0.0}, [("a", len(now)), ("b", 1)], f"s{group}", {"a": ME, "b": OTHER})
        for at, (reward, now, group) in enumerate(zip(given["rewards"], given["now"], given["groups"], strict=True))
    ]
    theirs = [row if isinstance(row, float) else row[0] for row in PEERS[peer]["advantages"][name]]
    found, _ = of(LIKE[peer, name], played)
    assert [found[f"m{at}", "a"][0] for at in range(len(played))] == pytest.approx(theirs, abs=2e-6)


def test_centred_rewards_are_those_of_tinker() -> None:
    given = PEERS["inputs"]
    played = [
        match(f"m{at}", {"a": r}, [("a", 1)], f"s{g}")
        for at, (r, g) in enumerate(zip(given["rewards"], given["groups"], strict=True))
    ]
    found, _ = of(Advantage(zeros=True), played)
    for group, theirs in enumerate(PEERS["tinker"]["advantages"]["centred"]):
        mine = [found[f"m{at}", "a"][0] for at, g in enumerate(given["groups"]) if g == group]
        assert mine == pytest.approx(theirs, abs=1e-6)
