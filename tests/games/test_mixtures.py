"""Nash mixtures and alpha-rank against games with known answers and OpenSpiel's numbers."""

import json
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from parley.games.mixtures import alpha_rank, nash

CASES = json.loads((Path(__file__).parents[1] / "fixtures/alpha_rank.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("payoffs", "mixture"),
    [
        ([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [1 / 3, 1 / 3, 1 / 3]),
        ([[0, -1, 2], [1, 0, -3], [-2, 3, 0]], [1 / 2, 1 / 3, 1 / 6]),
        ([[0, 1], [-1, 0]], [1, 0]),
        ([[2, -1], [-1, 1]], [2 / 5, 3 / 5]),
        ([[0.0]], [1]),
    ],
)
def test_nash_mixtures_that_are_known(payoffs, mixture):
    assert nash(payoffs, gap=1e-5) == pytest.approx(mixture, abs=1e-3)


def test_a_nash_mixture_is_worth_what_the_other_side_can_hold_it_to():
    for seed in range(4):
        random = Random(seed)
        payoffs = [[random.gauss(0, 1) for _ in range(5)] for _ in range(4)]
        own = nash(payoffs)
        other = nash([[-each for each in column] for column in zip(*payoffs, strict=True)])
        assured = min(sum(p * row[j] for p, row in zip(own, payoffs, strict=True)) for j in range(5))
        held = max(sum(q * each for q, each in zip(other, row, strict=True)) for row in payoffs)
        assert 0 <= held - assured < 4e-4


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['payoffs'])}-{case['alpha']}")
def test_alpha_rank_is_that_of_openspiel(case):
    assert alpha_rank(case["payoffs"], case["alpha"]) == pytest.approx(case["shares"], abs=1e-5)


def test_alpha_rank_of_one_and_of_a_dominant_member():
    assert alpha_rank([[0.0]], 10) == [1.0]
    assert alpha_rank([[0, -1, -1], [1, 0, -1], [1, 1, 0]], 10) == pytest.approx([0, 0, 1], abs=1e-6)


def test_alpha_rank_ranks_members_under_any_selection():
    """Under strong selection a weaker member's chance to take over is too small for a float, but still smaller."""
    line = [[(i - j) / 2 for j in range(3)] for i in range(3)]  # 2 beats 1 beats 0
    for alpha in (10, 30, 100, 1e4):
        for order in permutations(range(3)):
            shares = alpha_rank([[line[i][j] for j in order] for i in order], alpha)
            assert [shares[order.index(each)] for each in range(3)] == pytest.approx([0, 0, 1], abs=1e-6)
    cycle = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    assert alpha_rank(cycle, 1e4) == pytest.approx([1 / 3] * 3) == alpha_rank([[0.0] * 3] * 3, 1e4)
