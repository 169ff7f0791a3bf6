"""A judge's ratings of a player by dimension, with Sotopia's interval beside ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import mean, variance
from typing import TypeAlias

from rich.table import Table

from ..data.episode import Episode
from .estimates import Estimate, estimate, t_quantile

Setting: TypeAlias = tuple[str, str]  # a scenario's cluster, and the seat
Rows: TypeAlias = Sequence[tuple[Setting, float]]


def margin(rows: Rows) -> float:
    """Half of Sotopia's 95 % interval, as its benchmark computes it (sotopia-lab/sotopia at 041d074, get_avg_reward).

    t(n) sqrt(v / n) for n ratings, where v is the mean over settings (environment and position) of the variance within
    each (0 for a setting with one rating). It measures how much repeats of the same settings vary, not other settings,
    and is 0 with one rating per setting. The original estimates t's quantile from a million random values.
    """
    settings: dict[Setting, list[float]] = defaultdict(list)
    for setting, value in rows:
        settings[setting].append(value)
    within = mean(variance(own) if len(own) > 1 else 0.0 for own in settings.values())
    return t_quantile(len(rows)) * sqrt(within / len(rows))


def rated(matches: Iterable[Episode], player: str, names: Iterable[str]) -> dict[str, Rows]:
    """Dimension -> the ratings of `player` with their settings, for those of the dimensions `names` that were rated."""
    found: dict[str, list[tuple[Setting, float]]] = defaultdict(list)
    for episode in matches:
        for seat in (seat for seat, name in episode.players.items() if name == player):
            for name in names:
                value = episode.result.metrics.get(name)
                if isinstance(value, Mapping) and seat in value:
                    found[name].append(((episode.scenario.cluster, seat), float(value[seat])))
    return dict(found)


def estimated(rows: Rows) -> tuple[Estimate, float]:
    """The mean with our interval (clustered by environment), and Sotopia's margin."""
    return estimate([value for _, value in rows], [cluster for (cluster, _), _ in rows]), margin(rows)


def table(title: str, found: Mapping[str, Rows]) -> Table:
    """A line for each dimension."""
    made = Table(title=title)
    for head in ("", "mean", "95 %, by environment", "Sotopia's ±", "ratings", "settings"):
        made.add_column(head, justify="right" if head else "left")
    for name, rows in found.items():
        ours, theirs = estimated(rows)
        settings = len({setting for setting, _ in rows})
        between = f"[{ours.low:.2f}, {ours.high:.2f}]".replace("[", r"\[")
        made.add_row(name, f"{ours.mean:.2f}", between, f"{theirs:.2f}", str(ours.n), str(settings))
    return made
