"""Agreement among raters, people and judges: Krippendorff's alpha and simpler figures, for each dimension.

A rating is one rater's score of one item (a character of a dialogue) on one dimension. Several items of a dialogue are
not independent, so intervals resample dialogues, or are clustered by them.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, nan, sqrt
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from rich.table import Table

from ..data.episode import Episode
from ..data.scorer import Scores
from ..system.files import InputError, read_jsonl
from ..system.seeds import rng
from .estimates import Estimate, estimate

Item: TypeAlias = tuple[str, ...]  # what is rated; its first part is the dialogue
DRAWS = 1000  # bootstrap resamples of the dialogues, for an interval


@dataclass(frozen=True, slots=True)
class Rating:
    """One rater's scores of one item, by dimension."""

    item: Item
    rater: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of people on one dimension.

    n, items     ratings, and items with at least two raters
    mean         mean of all ratings
    exact, near  share of pairs of ratings of one item that are equal, and at most 1 apart
    alpha        Krippendorff's alpha, interval metric, with its 95 % interval
    pearson, spearman   correlations of the pairs
    ppa, alpha_binary   share of equal pairs, and alpha, after dividing each rating by the largest absolute one and
                 rounding it to 0 or 1, as Sotopia's script does
    """

    n: int
    items: int
    mean: float
    exact: float
    near: float
    alpha: float
    low: float
    high: float
    pearson: float
    spearman: float
    ppa: float
    alpha_binary: float


@dataclass(frozen=True, slots=True)
class Inflation:
    """A judge's ratings against the mean of the people's on the same items: their correlation, and judge minus
    people."""

    items: int
    pearson: float
    spearman: float
    excess: Estimate


def read(paths: Iterable[str | Path]) -> list[Rating]:
    """Reads ratings from JSONL files. Rows have `episode`, `agent`, `annotator` and `scores`, and `model` if several
    dialogues share an id. A rater's first rating of an item counts. InputError names file and line."""
    found: dict[tuple[Item, str], Rating] = {}
    for path in paths:
        for each in read_jsonl(path, _rating):
            found.setdefault((each.item, each.rater), each)
    if not found:
        raise InputError("there are no ratings in these files")
    return list(found.values())


def _rating(row: Mapping[str, Any]) -> Rating:
    scores = row["scores"]
    if not isinstance(scores, dict) or not scores:
        raise ValueError("scores must be an object of numbers by dimension")
    for name, value in scores.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise ValueError(f"the score {name} is {value!r}, expected a number, or null where it is missing")
    given = {name: float(value) for name, value in scores.items() if value is not None}
    dialogue = "/".join(str(row[key]) for key in ("model", "episode") if key in row or key == "episode")
    return Rating((dialogue, str(row["agent"])), str(row["annotator"]), given)


def rows(episode: Episode, scores: Scores, rater: str) -> Iterator[dict[str, Any]]:
    """A row, as `read` expects it, for each seat that has a score; seats are numbered from 1."""
    for number, seat in enumerate(episode.result.returns, 1):
        given = {scale: own[seat] for scale, own in scores.items() if seat in own}
        if given:
            yield {**identity(episode), "agent": number, "annotator": rater, "scores": given}


def identity(episode: Episode) -> dict[str, str]:
    """The id of a match in rows. A dialogue of Sotopia-π keeps the id under which people rated it."""
    record = episode.extra.get("sotopia", {})
    return {key: str(record[key]) for key in ("model", "episode") if key in record} or {"episode": episode.id}


def agreement(ratings: Sequence[Rating], dimension: str, seed: int = 0) -> Agreement:
    """Agreement of these raters on a dimension. ValueError if no item has two ratings."""
    units = _units(ratings, dimension)
    every = [value for unit in units.values() for value in unit]
    pairs = [pair for unit in units.values() for pair in combinations(unit, 2)]
    if not pairs:
        raise ValueError(f"no item has two ratings of {dimension}")
    low, high = _interval(units, rng(seed, "bootstrap", dimension))
    largest = max(map(abs, every)) or 1.0
    binary = {item: [float(round(value / largest)) for value in unit] for item, unit in units.items()}
    equal = [one == other for unit in binary.values() for one, other in combinations(unit, 2)]
    return Agreement(
        len(every),
        sum(len(unit) > 1 for unit in units.values()),
        _mean(every),
        _mean([one == other for one, other in pairs]),
        _mean([abs(one - other) <= 1 for one, other in pairs]),
        alpha(units.values()),
        low,
        high,
        pearson(pairs),
        spearman(pairs),
        _mean(equal),
        alpha(binary.values()),
    )


def inflation(ratings: Sequence[Rating], judge: str, judges: Sequence[str], dimension: str) -> Inflation | None:
    """Compares the rater `judge` with the people (all raters except `judges`). None if they share no item."""
    people = _units([each for each in ratings if each.rater not in judges], dimension)
    own = _units([each for each in ratings if each.rater == judge], dimension)
    shared = sorted(people.keys() & own.keys())
    if not shared:
        return None
    pairs = [(own[item][0], _mean(people[item])) for item in shared]
    excess = estimate([said - mean for said, mean in pairs], [item[0] for item in shared])
    return Inflation(len(shared), pearson(pairs), spearman(pairs), excess)


def people(ratings: Sequence[Rating], judges: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Agreement of all raters except `judges`: a row for each dimension that at least two of them rated."""
    own = [each for each in ratings if each.rater not in judges]
    rows = []
    for name in dict.fromkeys(name for each in own for name in each.scores):
        if any(len(unit) > 1 for unit in _units(own, name).values()):
            rows.append({"dimension": name, **asdict(agreement(own, name, seed))})
    return rows


def against(ratings: Sequence[Rating], judges: Sequence[str]) -> list[dict[str, Any]]:
    """Each judge against the people: a row for each dimension on which both rated the same item."""
    rows = []
    for judge in judges:
        names = dict.fromkeys(name for each in ratings if each.rater == judge for name in each.scores)
        for name in names:
            if (found := inflation(ratings, judge, judges, name)) is not None:
                told = {key: getattr(found, key) for key in ("items", "pearson", "spearman")}
                excess = {f"excess_{key}": getattr(found.excess, key) for key in ("mean", "low", "high")}
                rows.append({"judge": judge, "dimension": name, **told, **excess})
    return rows


def alpha(units: Iterable[Sequence[float]]) -> float:
    """Krippendorff's alpha with the interval metric: 1 - observed / expected disagreement (Krippendorff 2011). Items
    with one rating do not count; NaN if all ratings are equal, or none is left."""
    return _alpha(map(sum, zip(*map(_parts, units), strict=True)))


def _parts(unit: Sequence[float]) -> tuple[float, float, float, float]:
    """An item's share of (number of ratings, their sum, sum of squares, observed disagreement)."""
    n, total, squares = len(unit), sum(unit), sum(value * value for value in unit)
    return (n, total, squares, 2 * (n * squares - total * total) / (n - 1)) if n > 1 else (0, 0.0, 0.0, 0.0)


def _alpha(sums: Iterable[float]) -> float:
    n, total, squares, observed = [*sums] or (0.0,) * 4
    expected = 2 * (n * squares - total * total) / (n - 1) if n > 1 else 0.0
    return 1 - observed / expected if expected > 1e-12 else nan


def _interval(units: Mapping[Item, Sequence[float]], chance: Random) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of alpha over bootstrap resamples of the dialogues."""
    dialogues: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for item, unit in units.items():
        dialogues[item[0]].append(_parts(unit))
    sums = [tuple(map(sum, zip(*parts, strict=True))) for parts in dialogues.values()]
    drawn = (_alpha(map(sum, zip(*chance.choices(sums, k=len(sums)), strict=True))) for _ in range(DRAWS))
    found = sorted(each for each in drawn if isfinite(each))
    return (found[int(0.025 * len(found))], found[int(0.975 * (len(found) - 1))]) if found else (nan, nan)


def pearson(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's correlation of pairs; NaN if one side is constant."""
    one, other = (_mean(column) for column in zip(*pairs, strict=True))
    both = sum((x - one) * (y - other) for x, y in pairs)
    spread = sqrt(sum((x - one) ** 2 for x, _ in pairs) * sum((y - other) ** 2 for _, y in pairs))
    return both / spread if spread > 1e-12 else nan


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's correlation: that of the ranks; equal values get their mean rank."""
    one, other = (_ranks(column) for column in zip(*pairs, strict=True))
    return pearson(list(zip(one, other, strict=True)))


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values)):
        places[value].append(place)
    return [_mean(places[value]) for value in values]


def _units(ratings: Iterable[Rating], dimension: str) -> dict[Item, list[float]]:
    """Item -> its ratings on the dimension."""
    units: dict[Item, list[float]] = defaultdict(list)
    for each in ratings:
        if dimension in each.scores:
            units[each.item].append(each.scores[dimension])
    return units


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a line for each dimension and source of figures."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each row, numbers with three decimals."""
    table = Table(*(rows[0] if rows else ()), title=title)
    for row in rows:
        table.add_row(*(f"{each:.3f}" if isinstance(each, float) else str(each) for each in row.values()))
    return table
