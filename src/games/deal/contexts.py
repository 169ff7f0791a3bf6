"""Contexts of Deal or No Deal: items, both players' values, and the best possible outcomes.

Validity is as in the published file (Lewis et al. 2017, arXiv:1706.05125): all items together are worth 10 to each
player, every item has value for someone, and at least one for both. Contexts are *ordered*: the first value vector
belongs to the player who opens. A context and its mirror image share a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import TypeAlias

from ...system.files import InputError, read_text
from ..base import Scenario

ITEMS = ("books", "hats", "balls")
FULL_VALUE = 10
Triple: TypeAlias = tuple[int, int, int]  # one number for each of ITEMS
Points: TypeAlias = tuple[int, int]  # of the first and the second player

PUBLISHED_SEVENS = {(1, 2, 4), (1, 3, 3), (1, 4, 2), (2, 1, 4)}


def published_counts(counts: Triple) -> bool:
    """Whether the published file has these counts: all vectors of 5 and 6 items, and four of the twelve of 7."""
    return sum(counts) < 7 or counts in PUBLISHED_SEVENS


def points(values: Triple, share: Triple) -> int:
    """The points of `share` at `values`."""
    return values[0] * share[0] + values[1] * share[1] + values[2] * share[2]


def rest(counts: Triple, share: Triple) -> Triple:
    """The rest of `counts` without `share`."""
    return counts[0] - share[0], counts[1] - share[1], counts[2] - share[2]


@dataclass(frozen=True, slots=True)
class Context:
    """Counts of the items, and the values of one of each to the first and the second player."""

    counts: Triple
    values: tuple[Triple, Triple]

    def mirror(self) -> Context:
        """The same context with the other player opening."""
        return Context(self.counts, (self.values[1], self.values[0]))

    def fault(self) -> str | None:
        """The fault of an invalid context, or None."""
        first, second = self.values
        if any(not 1 <= count <= 10 for count in self.counts):
            return f"counts are {list(self.counts)}, expected 1 to 10 of each item"
        for player, values in enumerate(self.values):
            if any(not 0 <= value <= FULL_VALUE for value in values) or points(values, self.counts) != FULL_VALUE:
                return (
                    f"all items are worth {points(values, self.counts)} to player {player}, expected values of 0 to "
                    f"10 that add up to 10"
                )
        if any(a == b == 0 for a, b in zip(first, second, strict=True)):
            return "an item is worth nothing to both players"
        if not any(a and b for a, b in zip(first, second, strict=True)):
            return "no item is worth something to both players"
        return None

    def scenario(self) -> Scenario:
        """The scenario of this context."""
        table, *values = ("-".join(map(str, triple)) for triple in (self.counts, *self.values))
        data = {"counts": list(self.counts), "values": [list(vector) for vector in self.values]}
        return Scenario(":".join(("deal", table, *values)), data, f"deal:{table}:{'/'.join(sorted(values))}")

    @staticmethod
    def of(scenario: Scenario) -> Context:
        """The context that `scenario` describes; ValueError if it describes none."""
        try:
            numbers = [scenario.data["counts"], *scenario.data["values"]]
            counts, first, second = (_triple(row) for row in numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"scenario {scenario.id!r} is no context: expected three counts and twice three values"
            ) from error
        return Context(counts, (first, second))


def _grid(most: Triple, least: int = 0) -> Iterator[Triple]:
    """All triples of numbers from `least` to `most`."""
    books, hats, balls = (range(least, number + 1) for number in most)
    yield from product(books, hats, balls)


def _triple(row: list[int]) -> Triple:
    books, hats, balls = (int(number) for number in row)
    return books, hats, balls


def generate() -> Iterator[Context]:
    """All 5,295 ordered contexts with 1 to 4 of each item and 5 to 7 in total (28 count vectors)."""
    for counts in _grid((4, 4, 4), least=1):
        if 5 <= sum(counts) <= 7:
            worth = [values for values in _grid((FULL_VALUE,) * 3) if points(values, counts) == FULL_VALUE]
            contexts = (Context(counts, pair) for pair in product(worth, worth))
            yield from (context for context in contexts if context.fault() is None)


def read(path: str | Path) -> list[Context]:
    """The contexts of a file like the published `selfplay.txt`, with player 0 opening, in the file's order.

    Lines 2i and 2i+1 are the two players' views of one context: six integers, count and value of each item.
    InputError names the file and the invalid line.
    """
    lines = read_text(path).splitlines()
    if not lines or len(lines) % 2:
        raise InputError(f"{path}: {len(lines)} lines, expected an even number: two for each context, one a player")
    views = [_view(path, number, line) for number, line in enumerate(lines, 1)]
    contexts = []
    for number, ((counts, first), (again, second)) in enumerate(zip(views[::2], views[1::2], strict=True)):
        context = Context(counts, (first, second))
        fault = context.fault() if counts == again else f"counts are {list(again)}, on the line before {list(counts)}"
        if fault:
            raise InputError(f"{path}, line {2 * number + 2}: {fault}")
        contexts.append(context)
    return contexts


def _view(path: str | Path, number: int, line: str) -> tuple[Triple, Triple]:
    words = line.split()
    if len(words) != 6 or not all(word.isascii() and word.isdigit() and len(word) < 4 for word in words):
        raise InputError(
            f"{path}, line {number}: {line[:60]!r}, expected six integers: count and value of books, hats, balls"
        )
    numbers = [int(word) for word in words]
    return _triple(numbers[::2]), _triple(numbers[1::2])


@cache
def allocations(counts: Triple) -> tuple[Triple, ...]:
    """Every possible share of one player."""
    return tuple(_grid(counts))


@dataclass(frozen=True, slots=True)
class Oracle:
    """The possible outcomes of a context, in points.

    outcomes    points of every allocation, first player's shares in the order of `allocations`
    frontier    the Pareto frontier: points that no allocation beats (at least as good for both, better for one)
    joint_max   the largest sum of both players' points: the cooperative maximum (half of it is the semi-competitive
                one)
    nash        points at the Nash bargaining solution: the largest product; the mean where several tie
    """

    outcomes: tuple[Points, ...]
    frontier: frozenset[Points]
    joint_max: int
    nash: tuple[float, float]


@lru_cache(maxsize=16384)
def oracle(context: Context) -> Oracle:
    """The oracle of `context`, cached."""
    counts, (first, second) = context.counts, context.values
    outcomes = tuple((points(first, share), points(second, rest(counts, share))) for share in allocations(counts))
    distinct = set(outcomes)

    def beaten(p: tuple[int, int]) -> bool:
        """Whether another outcome is as good for both players and better for one."""
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in distinct)

    frontier = frozenset(p for p in distinct if not beaten(p))
    product_max = max(a * b for a, b in distinct)
    nash = [p for p in frontier if p[0] * p[1] == product_max]
    mean = (sum(p[0] for p in nash) / len(nash), sum(p[1] for p in nash) / len(nash))
    return Oracle(outcomes, frontier, max(a + b for a, b in distinct), mean)
