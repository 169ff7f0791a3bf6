"""The report's transcripts: the matches that a page lists, and pairs of one scenario at the start and at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..data.episode import Episode
from .choice import SOURCES, choose, worth
from .run import episodes, number
from .traits import Traits, traits
from .transcript import Views, ending, markup

ROOM = 2_500_000  # most characters of all transcripts of a page together

Viewed = Callable[[Episode], Views]


@dataclass(frozen=True, slots=True)
class Entry(Traits):
    """A match of the list: its traits for filtering, and its transcript."""

    iteration: int
    kind: str  # best, worst, random
    value: float  # the run's metric
    html: Markup

    def to_json(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return asdict(self)


def entries(run: Path, iteration: int, metric: str, count: int, seed: int, viewed: Viewed) -> list[Entry]:
    """The chosen matches of an iteration (see `choose`)."""
    return [
        entry(run, iteration, kind, episode, viewed(episode), metric)
        for kind, episode in choose(run, iteration, metric, count, seed)
    ]


def entry(run: Path, iteration: int, kind: str, episode: Episode, views: Views, metric: str) -> Entry:
    """One match for the list."""
    value = worth(episode, metric)
    title = f"iteration {iteration}, {kind}: {metric} {number(value)}, {ending(episode)}"
    return Entry(
        **asdict(traits(episode)), iteration=iteration, kind=kind, value=value, html=markup(episode, views, run, title)
    )


def fitting(found: Mapping[int, Sequence[Entry]], first: Iterable[int]) -> tuple[list[Entry], int]:
    """(the entries that fit into `ROOM`, how many do not). Iterations in `first` take precedence, then newer ones."""
    order = list(dict.fromkeys([*first, *sorted(found, reverse=True)]))
    chosen, left, taken = list[Entry](), 0, 0
    for each in (each for iteration in order for each in found.get(iteration, ())):
        taken += len(each.html)
        if taken > ROOM:
            left += 1
        else:
            chosen.append(each)
    return sorted(chosen, key=lambda each: each.iteration), left


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario at the start and at the end."""

    label: str
    gain: float
    before: Entry
    after: Entry


def pairs(run: Path, ends: tuple[int, int], metric: str, viewed: Viewed) -> list[Pair]:
    """Scenarios that both iterations `ends` played: those with the median, the largest and the smallest gain. The first
    match of a scenario counts."""
    for what in reversed(SOURCES):
        before, after = ({each.scenario.id: worth(each, metric) for each in _first(run, at, what)} for at in ends)
        gains = sorted((after[key] - before[key], key) for key in before.keys() & after.keys())
        if gains:
            break
    else:
        return []
    chosen = {"a typical scenario (median gain)": gains[len(gains) // 2]}
    if len(gains) > 2:
        chosen |= {"the scenario that gained most": gains[-1], "the scenario that gained least": gains[0]}
    wanted = {key for _, key in chosen.values()}
    at = [{each.scenario.id: each for each in _first(run, end, what) if each.scenario.id in wanted} for end in ends]
    told = ("at the start", "at the end")

    def shown(end: int, key: str) -> Entry:
        return entry(run, ends[end], told[end], at[end][key], viewed(at[end][key]), metric)

    return [Pair(label, gain, shown(0, key), shown(1, key)) for label, (gain, key) in chosen.items()]


def _first(run: Path, iteration: int, what: str) -> Iterable[Episode]:
    """The first match of each scenario."""
    seen = set[str]()
    for episode in episodes(run, iteration, what):
        if episode.scenario.id not in seen:
            seen.add(episode.scenario.id)
            yield episode
