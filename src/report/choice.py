"""Chooses the matches of an iteration that are worth reading, and formats them as rows for trackers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.episode import Episode
from ..system.seeds import rng
from .estimates import values
from .run import episodes as stored
from .transcript import Views, ending, plain

SOURCES = ("sampled", "greedy")  # evaluations to take matches from; the first one that is stored is used
COLUMNS = ("kind", "match", "scenario", "outcome", "value", "transcript")

Chosen = Sequence[tuple[str, Episode]]  # ("best", "worst" or "random", match)


def choose(run: Path, iteration: int, metric: str, count: int, seed: int) -> Chosen:
    """The best, the worst and random matches of an iteration. No match comes twice, nor does a scenario if there are
    enough of them."""
    for what in SOURCES:
        ranked = sorted(
            (worth(episode, metric), episode.id, episode.scenario.id) for episode in stored(run, iteration, what)
        )
        if ranked:
            break
    else:
        return []
    shuffled = rng(seed, "transcripts", iteration).sample(ranked, len(ranked))
    third = count // 3
    kinds: dict[str, str] = {}
    taken: set[str] = set()
    for kind, order, wanted in (
        ("best", ranked[::-1], third),
        ("worst", ranked, third),
        ("random", shuffled, count - 2 * third),
    ):
        fresh = [entry for entry in order if entry[1] not in kinds]
        fresh.sort(key=lambda entry: entry[2] in taken)  # a stable sort: scenarios not shown yet come first
        for _, match, scenario in _distinct(fresh)[:wanted]:
            kinds[match] = kind
            taken.add(scenario)
    found = {episode.id: episode for episode in stored(run, iteration, what) if episode.id in kinds}
    return [(kind, found[match]) for match, kind in kinds.items()]


def _distinct(entries: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The first entry of each scenario, then the others."""
    first = {entry[2]: entry for entry in reversed(entries)}
    return [entry for entry in entries if first[entry[2]] is entry] + [
        entry for entry in entries if first[entry[2]] is not entry
    ]


def worth(episode: Episode, metric: str) -> float:
    """The value that ranks a match: the run's metric, or the mean payoff if the match lacks the metric."""
    returns = episode.result.returns
    return values(episode).get(metric, sum(returns.values()) / max(len(returns), 1))


def rows(chosen: Chosen, views: Callable[[Episode], Views], metric: str) -> list[list[str | float]]:
    """The chosen matches as rows of a tracker's table with the columns `COLUMNS`; all private views are in one text."""
    return [
        [kind, episode.id, episode.scenario.id, ending(episode), worth(episode, metric), plain(episode, views(episode))]
        for kind, episode in chosen
    ]
