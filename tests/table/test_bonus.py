"""Bonus expressions: their value is that of the arithmetic written out, and nothing but arithmetic is read."""

from __future__ import annotations

from random import Random

import pytest
from parley.system.files import InputError
from parley.table.bonus import LONGEST, Expression

FIGURES = {"payoff": 7.0, "matches": 3.0, "earned": 0.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.10 + 0.20 * payoff", 1.5), ("max(0.30 * payoff, 0)", 2.1), ("min(2, payoff, matches)", 2.0),
        ("-(payoff - 2 * matches) / 4", -0.25), ("payoff / earned", 0.0), ("unknown + 1", 1.0), (" 2 ", 2.0),
        ("+payoff - -1", 8.0), ("max(payoff)", 7.0),
    ],
)  # fmt: skip
def test_the_value_is_that_of_the_arithmetic(text: str, value: float) -> None:
    assert Expression(text)(FIGURES) == pytest.approx(value)


def grown(draw: Random, depth: int) -> tuple[str, float]:
    """A random expression and its value, computed as it is written."""
    if depth == 0 or draw.random() < 0.2:
        name = draw.choice(["payoff", "matches"])
        number = draw.randint(0, 9)
        return (name, FIGURES[name]) if draw.random() < 0.5 else (str(number), float(number))
    (one, x), (other, y) = grown(draw, depth - 1), grown(draw, depth - 1)
    made = {
        "+": (f"({one} + {other})", x + y), "-": (f"({one} - {other})", x - y), "*": (f"({one} * {other})", x * y),
        "/": (f"({one} / {other})", x / y if y else 0.0), "min": (f"min({one}, {other})", min(x, y)),
        "max": (f"max({one}, {other})", max(x, y)), "neg": (f"(-{one})", -x),
    }  # fmt: skip
    return made[draw.choice(list(made))]


@pytest.mark.parametrize("seed", range(100))
def test_random_expressions(seed: int) -> None:
    text, value = grown(Random(seed), 3)
    assert Expression(text)(FIGURES) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "payoff.real", "payoff ** 9", "9 ** 9 ** 9", "[1]", "lambda: 1", "(x := 1)",
        "1 if 1 else 2", "payoff[0]", "'a' * 9", "True", "max()", "max(*payoff)", "min(1, key=abs)", "open(1)",
        "1 < 2", "f'{1}'", "", "1 +", "a b", "1; 2", "import os", "1j", "not 1", "payoff @ 1", "\x00", "(" * 200,
        "-" * 400 + "1", "1" * (LONGEST + 1), "max.real(1, 2)", "10 % 3", "await x", "...",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^the bonus"):
        Expression(text, "the bonus")


def test_unknown_names_and_values_without_end_are_refused() -> None:
    with pytest.raises(InputError, match="names payof, which is none of matches, payoff"):
        Expression("2 * payof").check(["payoff", "matches"])
    with pytest.raises(InputError, match="no finite value"):
        Expression("1e308 * 10 * payoff")(FIGURES)
    with pytest.raises(InputError, match="no finite value"):
        Expression("9e999")({})
