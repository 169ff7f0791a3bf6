"""Matchmaking is a pure function of the payoff table, and opponents are allotted without luck."""

from random import Random

import pytest
from parley.play.matching import Latest, Nash, Pfsp, Uniform, allotted

MEMBERS = ["start", "main@1", "main@2"]
PAYOFFS = {
    "start": {"main@1": 0.3, "main@2": 0.6},
    "main@1": {"start": 0.7, "main@2": 0.2},
    "main@2": {"start": 0.4, "main@1": 0.8},
}


def test_uniform_and_latest():
    assert Uniform()(PAYOFFS, "main@2", MEMBERS) == pytest.approx(dict.fromkeys(MEMBERS, 1 / 3))
    assert Latest()(PAYOFFS, "main@2", MEMBERS) == {"start": 0, "main@1": 0, "main@2": 1}


def test_pfsp_prefers_the_hard_or_the_even():
    hard = Pfsp("hard", 2.0)(PAYOFFS, "main@2", MEMBERS)
    weights = {"start": 0.36, "main@1": 0.04, "main@2": 0.25}  # against itself one half
    assert hard == pytest.approx({name: each / 0.65 for name, each in weights.items()})
    even = Pfsp("var")(PAYOFFS, "main@2", MEMBERS)
    assert even == pytest.approx(
        {name: each / 0.65 for name, each in {"start": 0.24, "main@1": 0.16, "main@2": 0.25}.items()}
    )


@pytest.mark.parametrize("weighting", ["hard", "var"])
@pytest.mark.parametrize("won", [0.0, 1.0])
def test_pfsp_knows_what_to_do_with_members_that_always_win_or_lose(weighting, won):
    shares = Pfsp(weighting)({"a": {"b": won, "c": won}}, "a", ["b", "c"])
    assert shares == {"b": 0.5, "c": 0.5}


def test_the_nash_mixture_leaves_out_who_is_beaten_by_all():
    table = {"rock": {"paper": 0, "scissors": 1, "fool": 1}, "paper": {"rock": 1, "scissors": 0, "fool": 1}}
    table |= {"scissors": {"rock": 0, "paper": 1, "fool": 1}, "fool": {"rock": 0, "paper": 0, "scissors": 0}}
    shares = Nash()(table, "rock", list(table))
    assert shares == pytest.approx({"rock": 1 / 3, "paper": 1 / 3, "scissors": 1 / 3, "fool": 0}, abs=2e-3)


def test_shares_sum_to_one_and_depend_on_nothing_but_the_table():
    for seed in range(20):
        random, names = Random(seed), [f"m{n}" for n in range(5)]
        table = {a: {b: random.random() for b in names} for a in names}
        for matching in (Uniform(), Latest(), Pfsp(), Pfsp("var", 3.0), Nash()):
            shares = matching(table, "m0", names)
            assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
            assert shares == matching({a: dict(reversed(row.items())) for a, row in table.items()}, "m0", names)


def test_opponents_are_allotted_to_within_one_at_every_place():
    for seed in range(30):
        random = Random(seed)
        weights = [random.random() ** 3 for _ in range(random.randint(1, 6))]
        shares = {f"m{n}": each / sum(weights) for n, each in enumerate(weights)}
        found = allotted(shares, 97)
        for place in range(1, 98):
            for name, share in shares.items():
                assert abs(found[:place].count(name) - share * place) < len(shares)
        assert all(abs(found.count(name) - share * 97) <= 1 for name, share in shares.items())
