"""Held-out splits by hash: a scenario's split depends only on its cluster and a seed, so a scenario held out of one
list is held out of every other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from ..system.seeds import derive

SPLITS = ("train", "validation", "test")
T = TypeVar("T")
Place: TypeAlias = Callable[[int, str], float]
"""(seed, cluster) -> place in [0, 1): first the test split, then validation, then train."""


def tenths(seed: int, cluster: str) -> float:
    """A place in steps of 0.1, for shares in whole tenths."""
    return derive(seed, "split", cluster) % 10 / 10


def fine(seed: int, cluster: str) -> float:
    """A place in steps of 2^-63, for any shares."""
    return derive(seed, "split", cluster) / 2**63


def belongs(place: float, validation: float, test: float) -> str:
    """The split at a place, for these held-out shares."""
    return "test" if place < test else "validation" if place < test + validation else "train"


def split(
    clusters: Mapping[str, str], seed: int, validation: float = 0.1, test: float = 0.1, place: Place = tenths
) -> dict[str, list[str]]:
    """The names of each split, shuffled; `clusters` maps names to clusters."""
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    for name in shuffled(clusters, seed):
        splits[belongs(place(seed, clusters[name]), validation, test)].append(name)
    return splits


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order that depends only on the seed and each name."""
    return sorted(names, key=lambda name: (derive(seed, "order", name), name))


def chosen(splits: Mapping[str, Sequence[T]], name: str, empty: str) -> Sequence[T]:
    """The contents of the split `name`. ValueError for an unknown name, and for an empty split, with the reason and
    advice `empty`."""
    if name not in splits:
        raise ValueError(f"unknown split {name!r}, expected one of {', '.join(splits)}")
    if not splits[name]:
        raise ValueError(f"nothing falls into the split {name!r}: {empty}")
    return splits[name]
