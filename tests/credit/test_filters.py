"""The published filters of Sotopia-π, each against a reference of ten lines, on 200 matches with gaps and ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import ceil
from random import Random
from typing import Any

import pytest
from parley.credit import FilteredBC
from parley.data.episode import Episode, Turn
from parley.games.base import Result, Scenario
from parley.system.files import InputError

Row = tuple[str, str, str, float, float]  # cluster, match, seat, goal, overall
SEATS = ("agent_1", "agent_2")


def matches(seed: int, many: int = 200) -> list[Episode]:
    """Matches of 20 environments, five pairs each; one in eight has no verdict, and whole scores tie often."""
    draw, found = Random(seed), []
    for number in range(many):
        cluster, match = f"env{number % 20}", f"p/{number:03d}"
        metrics: dict[str, Any] = {"judged_rate": float(draw.random() > 0.125)}
        if metrics["judged_rate"]:
            metrics["goal"] = {seat: float(draw.randint(3, 10)) for seat in SEATS}
            metrics["overall"] = {seat: draw.randint(-4, 20) / 4 for seat in SEATS}
        turns = tuple(Turn(f"{seat}.1", seat, "act", "words") for seat in SEATS)
        result = Result(dict.fromkeys(SEATS, 0.0), "left", metrics=metrics)
        scenario = Scenario(f"{cluster}-{number // 20 % 5}", {}, cluster)
        players = dict.fromkeys(SEATS, "me")
        found.append(Episode(match, "social", 1, scenario, 0, players, players, turns, result))
    return found


def rows(episodes: list[Episode]) -> Iterator[Row]:
    for each in episodes:
        metrics: Any = each.result.metrics
        if "goal" in metrics:
            for seat in SEATS:
                yield each.scenario.cluster, each.id, seat, metrics["goal"][seat], metrics["overall"][seat]


def top_two(found: list[Row]) -> set[tuple[str, str]]:
    """The best episode of each environment and position, by goal, then overall."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row[0], row[2]].append(row)
    best = [min(group, key=lambda row: (-row[3], -row[4], row[1])) for group in groups.values()]
    return {(row[1], row[2]) for row in best}


def threshold(found: list[Row]) -> set[tuple[str, str]]:
    return {(match, seat) for _, match, seat, goal, _ in found if goal >= 7}


def both_reach(found: list[Row]) -> set[tuple[str, str]]:
    """A goal of 7, while the partner has 6."""
    goals = {(match, seat): goal for _, match, seat, goal, _ in found}
    return {(m, s) for (m, s), goal in goals.items() if goal >= 7 and goals[m, SEATS[s == SEATS[0]]] >= 6}


def trimmed(found: list[Row]) -> set[tuple[str, str]]:
    """A goal of 7, and the larger side is cut to the smaller, its best episodes first."""
    sides = {seat: sorted((-row[3], 0, row[1]) for row in found if row[2] == seat and row[3] >= 7) for seat in SEATS}
    least = min(map(len, sides.values()))
    return {(match, seat) for seat, side in sides.items() for _, _, match in side[:least]}


def fraction(found: list[Row]) -> set[tuple[str, str]]:
    """The best 70 % by overall."""
    ranked = sorted(found, key=lambda row: (-row[4], row[1], row[2]))
    return {(match, seat) for _, match, seat, *_ in ranked[: ceil(0.7 * len(ranked))]}


FILTERS: dict[str, tuple[FilteredBC, Callable[[list[Row]], set[tuple[str, str]]]]] = {
    "top 2": (FilteredBC("best", group="cluster", score="goal", then="overall"), top_two),
    "threshold": (FilteredBC("at_least", score="goal", least=7.0), threshold),
    "threshold for both": (FilteredBC("at_least", score="goal", least=7.0, partner=6.0), both_reach),
    "balanced": (FilteredBC("at_least", score="goal", least=7.0, balance=True), trimmed),
    "top fraction": (FilteredBC("top", score="overall", share=0.7), fraction),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("seed", range(5))
def test_each_filter_equals_its_reference(name: str, seed: int) -> None:
    credit, reference = FILTERS[name]
    episodes = matches(seed)
    table = credit(episodes, "me").table
    kept = {(verdict.match, verdict.seat) for verdict in table if verdict.kept}
    assert kept == reference(list(rows(episodes))) and len(table) == 400
    unjudged = {each.id for each in episodes if "goal" not in each.result.metrics}
    told = {(verdict.why, verdict.score) for verdict in table if verdict.match in unjudged}
    assert told == {("no score", None)}  # missing, never 0


def test_top_two_keeps_two_of_an_environment_and_is_no_wider_than_its_group() -> None:
    episodes = matches(0)
    by_cluster = FILTERS["top 2"][0](episodes, "me").table
    by_scenario = FilteredBC("best", score="goal", then="overall")(episodes, "me").table
    assert sum(each.kept for each in by_cluster) == 2 * 20
    assert 2 * 20 < sum(each.kept for each in by_scenario) <= 2 * 100  # of a pair none may be judged


def test_above_group_takes_clusters_too() -> None:
    found = list(rows(episodes := matches(1)))
    goals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cluster, _, seat, goal, _ in found:
        goals[cluster, seat].append(goal)
    table = FilteredBC("above_group", group="cluster", score="goal")(episodes, "me").table
    above = {(m, s) for c, m, s, goal, _ in found if goal > sum(goals[c, s]) / len(goals[c, s])}
    assert {(each.match, each.seat) for each in table if each.kept} == above


def test_a_breaker_of_ties_that_nobody_has_is_refused() -> None:
    with pytest.raises(InputError, match="then='charm'"):
        FilteredBC("best", score="goal", then="charm")(matches(0), "me")
