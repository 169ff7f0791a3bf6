"""Bradley-Terry against L-BFGS, its bootstrap against the spread over repeated tournaments, cycles, pages."""

from __future__ import annotations

import csv
import io
from itertools import combinations
from math import exp, log
from random import Random

import numpy as np
import pytest
import torch
from parley.data.episode import Episode
from parley.games.base import Result, Scenario
from parley.report.ratings import ELO, Meeting, cyclic, fitted, meetings, points, rate
from parley.report.standings import as_csv, as_latex, as_table, page, remarks
from rich.console import Console

ROLES = ("first", "second")
TRUE = {"start": 0.0, "one": 60.0, "two": 120.0, "three": 260.0}


def chance(lead: float) -> float:
    return 1 / (1 + exp(-lead / ELO))


def drawn(random: Random, mean: float) -> float:
    """Points of a match that is a draw in one of ten cases."""
    return random.choices([1.0, 0.5, 0.0], [max(mean - 0.05, 0), 0.1, max(0.95 - mean, 0)])[0]


def played(true: dict[str, float], seat: float, clusters: int, seed: int, luck: float = 0.5) -> list[Meeting]:
    """A tournament, in which a scenario favours the same side of a pair in all of its matches."""
    random, found = Random(seed), []
    for one, other in combinations(true, 2):
        lucky = {f"c{number}": random.gauss(0, luck) for number in range(clusters)}
        for role, sign in zip(ROLES, (1, -1), strict=True):
            p = {k: chance(true[one] - true[other] + sign * seat + each * ELO) for k, each in lucky.items()}
            won = {k: (1, drawn(random, each)) for k, each in p.items()}
            found.append(Meeting(one, other, role, won))
    return found


def test_the_fit_is_that_of_lbfgs() -> None:
    found = played(TRUE, 40, 64, 3)
    rated = rate(found, "start", ROLES, 0, 0)
    names = list(TRUE)
    theta = torch.zeros(len(names) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = -0.5 * (torch.nn.functional.logsigmoid(theta) + torch.nn.functional.logsigmoid(-theta)).sum()
        for each in found:
            seat = 1 if each.role == "first" else -1
            logit = theta[names.index(each.one)] - theta[names.index(each.other)] + seat * theta[-1]
            n, s = (sum(pair[at] for pair in each.clusters.values()) for at in (0, 1))
            total = total - s * torch.nn.functional.logsigmoid(logit) - (n - s) * torch.nn.functional.logsigmoid(-logit)
        total.backward()
        return total

    for _ in range(5):
        optimizer.step(loss)
    theirs = theta.detach().numpy()
    for at, name in enumerate(names):
        assert rated.elo[name][0] == pytest.approx(1000 + (theirs[at] - theirs[0]) * ELO, abs=0.01)
    assert rated.seat is not None and rated.seat[0] == pytest.approx(theirs[-1] * ELO, abs=0.01)


def test_ratings_and_the_seat_are_recovered() -> None:
    rated = rate(played(TRUE, 50, 3000, 1, luck=0.0), "start", ROLES, 0, 50)
    for name, elo in TRUE.items():
        assert rated.elo[name][0] - 1000 == pytest.approx(elo, abs=15)
    assert rated.seat is not None and rated.seat[0] == pytest.approx(50, abs=10)
    assert not rated.misleading and rated.elo["start"] == (1000, 1000, 1000)


def test_intervals_of_the_bootstrap_cover_as_often_as_they_say() -> None:
    """Of 80 tournaments with lucky scenarios; a binomial with 95 % is outside of 70 to 80 once in thousands."""
    settled = rate(played(TRUE, 0, 8000, 99), "start", ROLES, 0, 0).elo["three"][0]
    inside = 0
    for seed in range(80):
        _, low, high = rate(played(TRUE, 0, 48, seed), "start", ROLES, seed, 200).elo["three"]
        inside += low <= settled <= high
    assert 68 <= inside <= 80


def test_the_deviance_is_twice_what_the_fit_loses_of_the_likelihood() -> None:
    """Of 7 of 10 points, whose fitted share the prior pulls towards a half."""
    rated = rate([Meeting("one", "two", "first", {"c": (10, 7.0)})], "two", ROLES, 0, 0)
    p = chance(rated.elo["one"][0] - rated.elo["two"][0])
    assert 0.5 < p < 0.7
    assert rated.deviance == pytest.approx(2 * (7 * log(0.7 / p) + 3 * log(0.3 / (1 - p))), abs=1e-9)


def test_who_never_loses_has_a_finite_rating() -> None:
    won = {f"c{number}": (1, 1.0) for number in range(50)}
    rated = rate([Meeting("best", "rest", role, won) for role in ROLES], "rest", ROLES, 0, 20)
    assert 1000 < rated.elo["best"][0] < 3000


def test_the_newton_steps_agree_for_one_table_and_for_many() -> None:
    random = np.random.default_rng(0)
    design = np.array([[1, -1, 0, 1], [1, 0, -1, -1], [0, 1, -1, 1.0]])
    n, s = np.full((5, 3), 20.0), random.integers(0, 21, (5, 3)).astype(float)
    together = fitted(design, n, s)
    alone = np.concatenate([fitted(design, n[at : at + 1], s[at : at + 1]) for at in range(5)])
    assert together == pytest.approx(alone, abs=1e-9)


def cycle(strength: float, clusters: int = 200) -> list[Meeting]:
    """rock, paper, scissors: each beats the next with probability 1/2 + strength."""
    random, found = Random(0), []
    for one, other in (("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")):
        for role in ROLES:
            won = {f"c{k}": (1, float(random.random() < 0.5 + strength)) for k in range(clusters)}
            found.append(Meeting(one, other, role, won))
    return found


def test_a_circle_is_told_and_equals_are_not_taken_for_one() -> None:
    rated = rate(cycle(0.3), "rock", ROLES, 0, 200)
    assert rated.cyclic is not None and rated.cyclic > 0.9 and rated.misleading
    assert any("misleading" in each for each in remarks(rated))
    assert rated.nash == pytest.approx(dict.fromkeys(rated.members, 1 / 3), abs=0.1)
    alike = [rate(cycle(0.0, clusters=100 + seed), "rock", ROLES, seed, 200).cyclic for seed in range(5)]
    line = rate(played(TRUE, 0, 400, 2), "start", ROLES, 0, 200)
    assert line.cyclic is not None and line.cyclic < 0.1 and not line.misleading
    assert sorted(each or 0.0 for each in alike)[0] < 0.5  # noise alone is not always a circle
    assert rated.deviance > 50 * line.deviance / max(line.freedom, 1)


def test_the_cyclic_share_of_exact_tables() -> None:
    line = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.3, 0.4, 0.5]])
    rps = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    assert cyclic(line, []) == pytest.approx(0, abs=1e-12) and cyclic(rps, []) == pytest.approx(1)
    assert cyclic(np.full((3, 3), 0.5), []) == 0.0


def test_pairs_that_never_met_leave_a_gap() -> None:
    won = {"c": (2, 1.5)}
    rated = rate([Meeting("a", "b", "first", won), Meeting("b", "c", "first", won)], "a", ROLES, 0, 10)
    assert rated.cyclic is None and rated.nash == {} and rated.matrix[0][2] is None
    assert "never met" in " ".join(remarks(rated)) and as_csv(rated) and page(rated)


def episode(returns: dict[str, float], players: dict[str, str], cluster: str = "k") -> Episode:
    scenario = Scenario(f"{cluster}1", {}, cluster)
    return Episode("t/1", "toy", 1, scenario, 0, players, {}, (), Result(returns, "over"))


@pytest.mark.parametrize(("lead", "worth"), [(2.0, 1.0), (0.0, 0.5), (-0.5, 0.0)])
def test_a_match_is_won_by_who_gets_more(lead: float, worth: float) -> None:
    each = episode({"first": 1 + lead, "second": 1}, {"first": "a", "second": "b"})
    assert points(each, "a") == worth and points(each, "b") == 1 - worth
    three = episode({"x": 1, "y": 0, "z": 0.5}, {"x": "a", "y": "b", "z": "b"})
    assert points(three, "a") == 1


def test_meetings_are_counted_by_role_and_cluster() -> None:
    first = episode({"first": 1, "second": 0}, {"first": "a", "second": "b"})
    second = episode({"first": 1, "second": 0}, {"first": "b", "second": "a"}, "m")
    found = {each.role: each.clusters for each in meetings("a", "b", [first, first, second])}
    assert found == {"first": {"k": (2, 2.0)}, "second": {"m": (1, 0.0)}}


def test_what_is_written_is_escaped_and_whole() -> None:
    names = {"<b>bold</b>": 0.0, "100% & _": 80.0}
    rated = rate(played(names, 0, 40, 5), "<b>bold</b>", ROLES, 0, 20)
    html = page(rated)
    assert "<b>bold" not in html and "&lt;b&gt;bold" in html and html.count("matches") >= 2
    assert r"100\% \& \_" in as_latex(rated)
    rows = list(csv.DictReader(io.StringIO(as_csv(rated))))
    assert [row["member"] for row in rows] == ["100% & _", "<b>bold</b>"] and len(rows[0]) == 8
    console = Console(width=160, record=True, quiet=False, file=io.StringIO())
    console.print(as_table(rated))
    assert "Bradley-Terry" in console.export_text()


def test_the_scale_is_elos() -> None:
    assert ELO * log(10) == pytest.approx(400)
