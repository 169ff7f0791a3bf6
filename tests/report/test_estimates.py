"""Estimates and their intervals, against slow references and typed numbers."""

from __future__ import annotations

import random

import pytest
from parley.data.episode import Call, Episode, Turn
from parley.games.base import Result, Scenario
from parley.report.estimates import estimate, language, paired, summarise, t_quantile, two_way, values


def episode(
    name: str, score: dict[str, float], players: dict[str, str] | None = None, cluster: str = "", **metrics: float
) -> Episode:
    players = players or {"a": "learner", "b": "start"}
    result = Result(returns=score, outcome="end", metrics={"score": score, **metrics})
    return Episode(name, "game", 1, Scenario(name, {}, cluster), 0, players, {}, (), result)


@pytest.mark.parametrize(
    ("freedom", "exact"), [(1, 12.706), (2, 4.303), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (255, 1.969)]
)
def test_students_quantile(freedom: int, exact: float) -> None:
    assert t_quantile(freedom) == pytest.approx(exact, rel=1.5e-3)


def test_independent_values_give_the_textbook_interval() -> None:
    # 1, 2, 3, 4: mean 2.5, s = 1.290994, s/sqrt(4) = 0.645497, t(3) = 3.1824
    found = estimate([1, 2, 3, 4], range(4))
    assert found.mean == 2.5
    assert found.high - found.mean == pytest.approx(3.1824 * 0.645497, rel=1e-4)


def test_copies_within_a_cluster_tell_nothing_new() -> None:
    values_, clusters = [1.0, 2.0, 3.0, 4.0], list("abcd")
    once, thrice = estimate(values_, clusters), estimate(values_ * 3, clusters * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert thrice.clusters == 4 and thrice.n == 12
    assert estimate(values_ * 3, range(12)).high < once.high  # what ignoring the clusters would claim


def test_coverage_with_clusters_of_unequal_size() -> None:
    """Of 400 data sets with strong clusters, about 95 % of the intervals hold the truth."""
    draw = random.Random(0)
    hits = 0
    for _ in range(400):
        found: list[float] = []
        clusters: list[int] = []
        for cluster in range(40):
            level = draw.gauss(0, 1)
            for _ in range(draw.randint(1, 3)):
                found.append(level + draw.gauss(0, 0.3))
                clusters.append(cluster)
        interval = estimate(found, clusters)
        hits += interval.low <= 0 <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_cluster_says_nothing_of_the_spread() -> None:
    assert estimate([1, 2], ["a", "a"]).to_json() == {"mean": 1.5, "low": None, "high": None, "n": 2, "clusters": 1}


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([], [])


def test_metrics_of_a_seat_are_those_of_the_evaluated_player() -> None:
    match = episode("x", {"a": 3.0, "b": 7.0}, joint=10.0)
    assert values(match, ["learner"]) == {"score": 3.0, "joint": 10.0}
    assert values(match, ["start"])["score"] == 7.0
    assert values(match)["score"] == 5.0
    assert values(match, ["nobody"]) == {}


def test_a_metric_that_a_match_lacks_is_not_counted_there() -> None:
    found = summarise([episode("x", {"a": 1.0, "b": 1.0}, deal=1.0), episode("y", {"a": 2.0, "b": 2.0})])
    assert (found["score"].n, found["deal"].n) == (2, 1)


def test_mirrored_scenarios_are_one_cluster() -> None:
    found = summarise(
        [episode("x", {"a": 1.0, "b": 1.0}, cluster="pair"), episode("y", {"a": 2.0, "b": 2.0}, cluster="pair")]
    )
    assert found["score"].clusters == 1


def test_paired_differences_ignore_what_only_one_side_played() -> None:
    before = [
        episode(name, {"a": score, "b": score}) for name, score in (("x", 1.0), ("y", 5.0), ("z", 9.0), ("only", 100.0))
    ]
    after = [episode(name, {"a": score, "b": score}) for name, score in (("x", 2.0), ("y", 6.0), ("z", 10.0))]
    gain = paired(before, after, "score")
    assert (gain.mean, gain.low, gain.high, gain.n) == (1.0, 1.0, 1.0, 3)
    with pytest.raises(ValueError, match="no scenario"):
        paired(before[:1], after[1:], "score")


def test_language_counts_the_players_own_words_only() -> None:
    def turn(request: str, seat: str, text: str) -> Turn:
        return Turn(request, seat, "act", text, "stop", Call((1,), (2, 3), (-1.0, -0.5), "v"))

    match = episode("x", {"a": 0.0, "b": 0.0})
    told = (turn("a.1", "a", "yes no"), turn("b.1", "b", "never counted at all"), turn("a.2", "a", "yes"))
    match = Episode(match.id, "game", 1, match.scenario, 0, match.players, {}, told, match.result)
    found = {"replies": 2, "entropy": 1.5, "reply_tokens": 2.0, "distinct_words": 2, "distinct_replies": 1.0}
    found |= {"cut": 0.0, "illegal": 0.0}
    assert language([match], ["learner"]) == found
    assert language([match], ["nobody"]) == {}


def slow_two_way(values_: list[float], one: list[int], other: list[int]) -> float:
    """The variance of the mean, pair by pair: the residuals of values that share a cluster are multiplied."""
    n, mean = len(values_), sum(values_) / len(values_)

    def shared(keys: list[object]) -> float:
        count = len(set(keys))
        pairs = ((i, j) for i in range(n) for j in range(n) if keys[i] == keys[j])
        return count / (count - 1) * sum((values_[i] - mean) * (values_[j] - mean) for i, j in pairs) / n**2

    by_one, by_other, by_both = shared(list(one)), shared(list(other)), shared(list(zip(one, other, strict=True)))
    return max(by_one + by_other - by_both, by_one, by_other)


@pytest.mark.parametrize("seed", range(20))
def test_two_crossed_clusterings_equal_the_sum_over_all_pairs(seed: int) -> None:
    draw = random.Random(seed)
    rows = [(draw.gauss(0, 1), draw.randrange(6), draw.randrange(9)) for _ in range(60)]
    values_, one, other = (list(column) for column in zip(*rows, strict=True))
    found = two_way(values_, one, other)
    half = t_quantile(5) * slow_two_way(values_, one, other) ** 0.5
    assert (found.mean, found.high - found.mean) == pytest.approx((sum(values_) / 60, half), rel=1e-9)
    assert (found.n, found.clusters) == (60, 6)


def test_the_interval_by_person_and_scenario_by_hand() -> None:
    """Persons a, b, c play scenarios 1 and 2: 1 3, 3 5, 5 7, mean 4. Residuals by person -4, 0, 4 (squares 32), by
    scenario -3, 3 (18), by cell -3 -1 -1 1 1 3 (22): the variance of the mean is (3/2·32 + 2·18 - 6/5·22) / 36 = 1.6,
    and t(1) = 12.7062."""
    found = two_way([1, 3, 3, 5, 5, 7], list("aabbcc"), [1, 2, 1, 2, 1, 2])
    assert found.mean == 4 and found.clusters == 2 and found.n == 6
    assert found.high - found.mean == pytest.approx(12.7062 * 1.6**0.5, rel=1e-6)


def test_an_interval_that_knows_persons_and_scenarios_covers_and_one_that_does_not_does_not() -> None:
    draw, hits, naive = random.Random(0), 0, 0
    for _ in range(300):
        persons, scenarios = ([draw.gauss(0, 1) for _ in range(count)] for count in (12, 15))
        cells = [(p, s) for p in range(12) for s in range(15)]
        found = [persons[p] + scenarios[s] + draw.gauss(0, 1) for p, s in cells]
        known = two_way(found, [p for p, _ in cells], [s for _, s in cells])
        hits += known.low <= 0 <= known.high
        alone = estimate(found, [s for _, s in cells])
        naive += alone.low <= 0 <= alone.high
    assert 0.9 < hits / 300 <= 1 and naive < hits


def test_one_person_says_nothing_of_people() -> None:
    assert two_way([1, 2], ["a", "a"], [1, 2]).to_json()["low"] is None
