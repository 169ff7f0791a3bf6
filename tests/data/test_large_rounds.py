"""Rounds larger than memory: stored matches are gone through one at a time, and credit says of them what it says of a
list."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from parley.credit import Credit, Demonstrated, FilteredBC, SpagCredit, SpinPairs, Verdict, Verdicts, decayed
from parley.data.episode import Episode
from parley.data.sample import Sample, Utterance
from parley.data.scorer import RuleScorer, ScoredMatches, write_scores
from parley.data.store import EpisodeStore, Matches
from parley.report.estimates import summarise
from test_credit import ME, episode

REAL = [Sample(f"s{number}", (900, 7, 8 + number), (Utterance(1, 3),)) for number in range(3)]


def drawn(seed: int, matches: int = 30, **fixed: Any) -> list[Episode]:
    """A round of two seats: any payoffs, ends and breaches; some of the seats are played by a script."""
    draw = random.Random(seed)
    found = []
    for number in range(matches):
        ending = draw.choice([("win", "loss"), ("loss", "win"), ("tie", "tie"), ("void", "win")])
        payoff = draw.choice([0, 1, 2, 3.5])
        returns = {"a": payoff, "b": draw.choice([-payoff, payoff, 0])} if seed % 2 else {"a": payoff, "b": -payoff}
        result: dict[str, Any] = {
            "outcome_by_seat": dict(zip("ab", ending, strict=True)),
            "blame": draw.choice([(), (), (), ("a",), ("b",), ("a", "b")]),
            "metrics": {"agreement_rate": draw.randint(0, 1), "ceiling": {"a": draw.choice([0.0, 4.0]), "b": 5.0}},
        }
        players = {"a": ME, "b": draw.choice([ME, ME, "script"])}
        speakers = "ab" * draw.randint(1, 4)
        found.append(
            episode(f"m{number:04d}", returns, speakers, draw.choice(["s0", "s1", "s2"]), players, **result | fixed)
        )
    return found


def stored(folder: Path, episodes: Sequence[Episode], seed: int = 0) -> Matches:
    """`episodes` in three shards, in any order."""
    mixed = random.Random(seed).sample(episodes, len(episodes))
    for shard in range(3):
        with EpisodeStore(folder, shard) as store:
            for each in mixed[shard::3]:
                store.append(each)
    return Matches(folder)


# --- stored matches
# ----------------------------------------------------------------------------------------------------


def test_stored_matches_are_sorted_and_gone_through_again_and_again(tmp_path: Path) -> None:
    episodes = drawn(1)
    matches = stored(tmp_path, episodes)
    assert len(matches) == 30 and list(matches) == episodes == list(matches)
    assert [one.id < other.id for one, other in zip(matches, list(matches)[1:], strict=False)] == [
        True
    ] * 29  # two passes at once
    assert matches["m0007"] == episodes[7] and "m0007" in matches and "m0099" not in matches
    with pytest.raises(KeyError):
        matches["m0099"]
    with EpisodeStore(tmp_path, 7) as store:
        store.append(replace(episodes[7], seed=5))  # a second line of a match: the first stands
        store.append(replace(episodes[0], id="m0030"))
    assert len(matches) == 30 and len(Matches(tmp_path)) == 31 and Matches(tmp_path)["m0007"] == episodes[7]
    assert not list(Matches(tmp_path / "none"))


def test_ids_are_sorted_as_python_sorts_them(tmp_path: Path) -> None:
    ids = ["b", "a/10", "a/9", "Z", "ä", "\U0001f600", "\uffee", "a", "a b"]
    matches = stored(tmp_path, [replace(drawn(0)[0], id=name) for name in ids])
    assert [each.id for each in matches] == sorted(ids)


# --- credit
# ------------------------------------------------------------------------------------------------------------


def slow_filter(credit: FilteredBC, episodes: Sequence[Episode]) -> list[tuple[Any, ...]]:
    """(match, seat, score, bar, whether it passes) of every log, with all of the round at hand."""
    logs = [
        (each, seat) for each in sorted(episodes, key=lambda each: each.id) for seat in "ab" if each.players[seat] == ME
    ]
    share = {True: lambda each, seat: each.result.metrics["ceiling"][seat], False: lambda each, seat: 1.0}[
        bool(credit.normalise_by)
    ]
    scores = [each.result.returns[seat] / share(each, seat) if share(each, seat) else 0.0 for each, seat in logs]
    rows = []
    for (each, seat), score in zip(logs, scores, strict=True):
        alike = [
            s for (other, o), s in zip(logs, scores, strict=True) if (other.scenario.id, o) == (each.scenario.id, seat)
        ]
        bar = {"above_avg": mean(scores), "above_group": mean(alike), "nonzero": 0.0, "all": None}[credit.keep]
        zero = all(sum(other.result.returns.values()) == 0 for other in episodes) and credit.keep in (
            "above_avg",
            "nonzero",
        )
        draw = zero and each.result.metrics["agreement_rate"] and not any(each.result.returns.values())
        rows.append((each.id, seat, pytest.approx(score), bar, bool(bar is None or score > bar or draw)))
    return rows


@pytest.mark.parametrize("credit", [FilteredBC(keep, normalise_by=name) for keep in ("above_avg", "above_group", "nonzero", "all") for name in (None, "ceiling")], ids=str)  # fmt: skip  # noqa: E501
def test_filtered_logs_of_a_stored_round_are_those_of_a_slow_reference(tmp_path: Path, credit: FilteredBC) -> None:
    for seed in range(4):
        episodes = drawn(seed)
        told = credit(stored(tmp_path / str(seed), episodes, seed), ME)
        assert [
            (v.match, v.seat, v.score, v.bar, v.kept or "no legal reply" in v.why) for v in told.table
        ] == slow_filter(credit, episodes)
        assert {sample.id.rpartition("/")[0] for sample in told.samples} == {
            f"{v.match}/{v.seat}" for v in told.table if v.kept
        }


def slow_spag(credit: SpagCredit, episodes: Sequence[Episode]) -> dict[str, tuple[float, float]]:
    """request of a match -> (reward, weight), from lists of all logs."""
    logs = [(each, seat) for each in episodes for seat in "ab" if each.players[seat] == ME]
    ends = []
    for each, seat in logs:
        word = each.result.outcome_by_seat[seat]
        ends.append("break" if seat in each.result.blame else word)
    worth = {"win": 1.0, "loss": credit.losers, "break": credit.breakers, "tie": 0.0}
    own = [[turn.request for turn in each.turns if turn.seat == seat] for each, seat in logs]
    rewards: list[list[float]] = []  # of each log's replies; none where it is left out
    for (_, seat), end, replies in zip(logs, ends, own, strict=True):
        role = [worth[e] for (_, s), e in zip(logs, ends, strict=True) if s == seat and e != "void"]
        total = 0.0 if end == "void" else worth[end] - (mean(role) if credit.baseline == "role" else 0.0)
        whole = [credit.gamma ** (len(replies) - j) for j in range(1, len(replies) + 1)]
        shares = whole if credit.spread == "whole" else decayed(len(replies), credit.gamma)
        rewards.append(
            [total * share for share in shares] if end != "void" and (total or credit.baseline == "turn") else []
        )
    if credit.baseline == "turn":
        alike = [
            [[r[j] for (_, s), r in zip(logs, rewards, strict=True) if s == seat and len(r) > j] for j in range(9)]
            for _, seat in logs
        ]
        rewards = [
            [reward - mean(column) for reward, column in zip(r, columns, strict=False)]
            for r, columns in zip(rewards, alike, strict=True)
        ]
    kinds = [end if credit.baseline == "none" else "all" for end in ends]
    trained = [(log, kind) for log, kind, r in zip(logs, kinds, rewards, strict=True) if r]
    numbers = {}
    for (each, seat), kind, replies, earned in zip(logs, kinds, own, rewards, strict=True):
        same = [log for log, k in trained if k == kind]
        weight = (
            len(same) / (len({s for _, s in logs}) * sum(s == seat for _, s in same))
            if earned and credit.role_weights
            else 1.0
        )
        numbers |= {f"{each.id}/{request}": (reward, weight) for request, reward in zip(replies, earned, strict=False)}
    return numbers


@pytest.mark.parametrize("form", ["corrected", "faithful"])
@pytest.mark.parametrize("weighted", [True, False])
def test_spags_numbers_of_a_stored_round_are_those_of_a_slow_reference(
    tmp_path: Path, form: Any, weighted: bool
) -> None:
    credit = SpagCredit(form=form, role_weights=weighted)
    for seed in range(4):
        episodes = drawn(seed)
        told = credit(stored(tmp_path / str(seed), episodes, seed), ME)
        rows = {each.id: {turn.call.sampled_ids: turn.request for turn in each.turns if turn.call} for each in episodes}
        found = {}
        for sample in told.samples:
            match = sample.id.split("/")[0]
            for each in sample.utterances:
                found[f"{match}/{rows[match][sample.token_ids[each.start : each.end]]}"] = pytest.approx(
                    (each.reward, each.weight)
                )
        assert slow_spag(credit, episodes) == found


@pytest.mark.parametrize(
    "credit", [FilteredBC(), SpagCredit(), SpagCredit(form="faithful"), SpinPairs(), Demonstrated()], ids=str
)
def test_a_stored_round_and_a_list_give_the_same(tmp_path: Path, credit: Credit) -> None:
    for seed in range(4):
        episodes = drawn(seed)
        assert credit(stored(tmp_path / str(seed), episodes, seed), ME, REAL) == credit(episodes, ME, REAL)


def test_credit_finds_the_scores_of_a_scorer_by_name(tmp_path: Path) -> None:
    episodes = drawn(2)
    matches = stored(tmp_path, episodes)
    write_scores(tmp_path / "scores.jsonl", Kindness(), matches)
    scored = ScoredMatches(tmp_path, tmp_path / "scores.jsonl")
    told = FilteredBC("nonzero", score="kindness", keep_draws=None)(scored, ME)
    assert [v.score for v in told.table] == [Kindness()(matches[v.match])["kindness"][v.seat] for v in told.table]
    assert {v.kept for v in told.table} == {v.score > 0 for v in told.table} == {True, False}
    with pytest.raises(
        ValueError, match=r"score='kindness': match m0000 has no such metric; it has \['agreement_rate', 'ceiling'\]"
    ):
        FilteredBC(score="kindness")(matches, ME)


class Kindness:
    """Last digit of the match's number, and nothing for seat b."""

    def __call__(self, episode: Episode) -> dict[str, dict[str, float]]:
        return {"kindness": {"a": float(episode.id[-1]), "b": 0.0}}


# --- the table
# ---------------------------------------------------------------------------------------------------------


def test_a_table_on_the_disk_is_a_sequence_of_verdicts() -> None:
    rows = [
        Verdict(f"m{n}", "s", "a", n / 7, None if n % 2 else 0.1 + n, n % 3 == 0, "wörd", ("a.1",) * n, n < 2)
        for n in range(9)
    ]
    table = Verdicts(rows)
    assert list(table) == rows and len(table) == 9 and table[-1] == rows[-1] and table[2:4] == rows[2:4]
    assert table == Verdicts(rows) != Verdicts(rows[:-1]) and not Verdicts()
    pairs = list(zip(table, table, strict=True))  # two at once
    assert pairs == list(zip(rows, rows, strict=True))


# --- memory
# ------------------------------------------------------------------------------------------------------------


def peak(work: Callable[[], object]) -> int:
    """The most bytes of Python objects that `work` held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_matches_take_hardly_more_memory(tmp_path: Path) -> None:
    """Matches of 20 kB each: a hundred of them would be 2 MB, a thousand 20."""

    def round_of(count: int) -> None:
        folder = tmp_path / str(count)
        with EpisodeStore(folder) as store:
            for number in range(count):
                [one] = drawn(number, 1)
                text = "word " * 500
                store.append(
                    replace(
                        one,
                        id=f"m{number}",
                        turns=tuple(replace(each, call=None, text=text) for each in one.turns[:1] * 8),
                    )
                )
        matches = Matches(folder)
        write_scores(folder / "scores.jsonl", RuleScorer(), matches)
        summarise(matches)
        for credit in (FilteredBC("above_group"), SpagCredit(), FilteredBC("all")):
            assert credit(ScoredMatches(folder, folder / "scores.jsonl"), ME).table

    round_of(3)  # what is made once
    few, many = (peak(lambda count=count: round_of(count)) for count in (100, 1000))
    assert many < 1.2 * few + 300 * 1000, (few, many)
