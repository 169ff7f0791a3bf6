"""Selects the best logs of a round: one per group, a share of all, equally many per seat (Sotopia-π,
arXiv:2403.08715)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True, order=True)
class Ranked:
    """A log's sort key: smaller is better, by score, then by the tie breaker, then by match and seat."""

    score: float  # negated
    tie: float  # negated
    match: str
    seat: str
    group: str = ""


def best(ranked: Sequence[Ranked]) -> list[Ranked]:
    """The best log of each group and seat."""
    found: dict[tuple[str, str], Ranked] = {}
    for each in ranked:
        found.setdefault((each.group, each.seat), each)
    return list(found.values())


def top(ranked: Sequence[Ranked], share: float) -> list[Ranked]:
    """The best `share` of all logs, rounded up."""
    return list(ranked[: ceil(share * len(ranked))])


def balanced(ranked: Sequence[Ranked]) -> list[Ranked]:
    """The best logs of each seat, equally many: the number of the seat with the fewest."""
    least = min(Counter(each.seat for each in ranked).values(), default=0)
    taken: Counter[str] = Counter()
    found = []
    for each in ranked:
        taken[each.seat] += 1
        found += [each] if taken[each.seat] <= least else []
    return found
