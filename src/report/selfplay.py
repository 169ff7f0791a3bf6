"""Figures of lm-selfplay's rounds as its own analysis defines them (arXiv:2406.18872): one row per folder of logs.

Scores are the recorded ones, two per game. The original's `above_avg` lengths are by mistake those of all agreements;
here they belong to scores above average, and a game counts once for each such score.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median

from rich.table import Table

from ..data.formats.lm_selfplay import Items, Record
from ..games.deal.contexts import allocations, points, rest

WEIGHTS = {"self": 0, "coop": 1, "comp": -1}
"""Objective of lm-selfplay -> weight of the partner's score in a player's own."""


def figures(games: Sequence[Record], objective: str = "self") -> dict[str, float]:
    """The figures of one round; a figure without any game is left out.

    A deal is Pareto-optimal if no complementary split is as good for both and better for one, by their scores under
    `objective`; the share is of all games.
    """
    scores = [score for game in games for score in game.scores]
    above = [(score, game) for game in games for score in game.scores if score > mean(scores)]
    deals = [game for game in games if game.is_valid_deal]
    best = [_best(game) for game in games]
    return {
        "games": len(games),
        **_told("total", scores, games),
        "abort_rate": mean(game.outcome == "abort" for game in games),
        "proportion_agreement": len(deals) / len(games),
        **_told("agreement", [score for game in deals for score in game.scores], deals),
        "proportion_pareto_opt": mean(_pareto(game, WEIGHTS[objective]) for game in games),
        "proportion_above_avg": len(above) / len(scores),
        **_told("above_avg", [score for score, _ in above], [game for _, game in above]),
        "ceiling": mean(best) / (1 if objective == "coop" else 2),
    }


def as_csv(rows: Mapping[str, Mapping[str, float]]) -> str:
    """CSV with a line for each folder, in order."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["iteration", "logs", *columns], lineterminator="\n")
    writer.writeheader()
    for number, (name, row) in enumerate(rows.items()):
        writer.writerow({"iteration": number, "logs": name, **row})
    return text.getvalue()


def as_table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A table with a row for each figure and a column for each folder."""
    table = Table("figure", *map(str, range(len(rows))))
    for key in dict.fromkeys(key for row in rows.values() for key in row):
        table.add_row(key, *(f"{row[key]:.4g}" if key in row else "-" for row in rows.values()))
    return table


def _told(name: str, scores: Sequence[int], games: Iterable[Record]) -> dict[str, float]:
    games = list(games)
    if not scores:
        return {}
    return {
        f"{name}_mean": mean(scores),
        f"{name}_median": median(scores),
        f"{name}_length_in_msgs": mean(game.message_count for game in games),
        f"{name}_length_in_tkns": mean(game.token_count for game in games),
    }


def _splits(game: Record) -> list[tuple[int, int]]:
    """Both players' points in every complementary split."""
    one, other = game.values
    return [(points(one, share), points(other, rest(game.counts, share))) for share in allocations(game.counts)]


def _best(game: Record) -> int:
    return max(one + other for one, other in _splits(game))


def _pareto(game: Record, weight: int) -> bool:
    """Whether no split is as good for both and better for one than the game's result."""

    def scored(one: int, other: int) -> tuple[int, int]:
        return one + weight * other, other + weight * one

    first, second = scored(*_reached(game))
    every = (scored(*split) for split in _splits(game))
    return not any(a >= first and b >= second and (a, b) != (first, second) for a, b in every)


def _reached(game: Record) -> tuple[int, int]:
    """Both players' points; (0, 0) without a valid deal."""
    shares: tuple[Items | None, Items | None] = game.allocations
    if not game.is_valid_deal or shares[0] is None or shares[1] is None:
        return 0, 0
    return points(game.values[0], shares[0]), points(game.values[1], shares[1])
