"""The clemscore, by which clembench ranks models, with an interval (clembench gives none).

clemscore = P Q. P is the mean over games of the share of matches played to their end, Q the mean over games of the mean
quality (0 to 100) of those matches. A game with no finished match counts in P only.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, sqrt
from statistics import fmean

from ..games.suite import UNSEEN
from .estimates import Column, Estimate, t_quantile

PLAYED, QUALITY, SCORE = "played_rate", "quality", "main_score"


def clemscores(columns: Mapping[str, Column]) -> dict[str, Estimate]:
    """The clemscore of the clembench games in `columns` (metric -> values), and as `unseen.clemscore` that of the games
    a suite does not train on. {} if no match was played to its end."""
    found = {}
    for start in ("", UNSEEN):
        games = [
            name.removesuffix(SCORE)
            for name in columns
            if name == SCORE or name.endswith(f".{SCORE}")
            if name.startswith(UNSEEN) == bool(start)
        ]
        played = {game: columns[game + PLAYED] for game in games}
        quality = {game: columns[game + QUALITY] for game in games if game + QUALITY in columns}
        if quality:
            found[f"{start}clemscore"] = clemscore(played, quality)
    return found


def clemscore(played: Mapping[str, Column], quality: Mapping[str, Column]) -> Estimate:
    """P Q of the games with its 95 % interval by the delta method, clustered within each game.

    `played` and `quality` map a game to its column; both columns of a game number its clusters alike. The interval is
    infinite if a game has a single cluster. ValueError if no match was played to its end.
    """
    if not quality:
        raise ValueError("no match was played to its end: there is no quality, and so no clemscore")
    share = fmean(each.total / each.n for each in played.values())
    worth = fmean(each.total / each.n for each in quality.values())
    variance, clusters = 0.0, 0
    for game, column in played.items():
        moved = {at: worth / len(played) * each / column.n for at, each in column.residuals().items()}
        if own := quality.get(game):
            for at, each in own.residuals().items():
                moved[at] += share / len(quality) * each / own.n
        several = len(moved) > 1
        variance += len(moved) / (len(moved) - 1) * sum(each * each for each in moved.values()) if several else inf
        clusters += len(moved)
    half = t_quantile(clusters - len(played)) * sqrt(variance) if variance < inf else inf
    mean, n = share * worth, sum(each.n for each in played.values())
    return Estimate(mean, mean - half, mean + half, n, clusters)
