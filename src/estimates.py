"""Estimates with intervals: what a set of episodes says of a player, clustered by what is not independent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from statistics import NormalDist

from .data.episode import Episode


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95 % interval, from `n` values in `clusters` independent clusters."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    def to_json(self) -> dict[str, float | None]:
        """Six decimals; a bound that is not finite becomes null, which JSON can say."""
        return {key: round(value, 6) if isfinite(value) else None for key, value in asdict(self).items()}


def t_quantile(freedom: int) -> float:
    """Student's 97.5 % quantile: exact below 5 degrees of freedom, else the series of Abramowitz & Stegun 26.7.5
    (within 0.1 %)."""
    if freedom < 5:
        return {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}[freedom]
    z, v = NormalDist().inv_cdf(0.975), float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
    )
    return sum(terms)


def estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of `values` with a cluster-robust interval (Liang & Zeger 1986, with the C/(C-1) correction).

    Fewer than two clusters say nothing of the spread: the interval is infinite.
    """
    if not values:
        raise ValueError("no values to estimate from")
    mean = sum(values) / len(values)
    residual: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        residual[cluster] += value - mean
    count = len(residual)
    if count < 2:
        return Estimate(mean, float("-inf"), float("inf"), len(values), count)
    error = sqrt(count / (count - 1) * sum(r * r for r in residual.values())) / len(values)
    half = t_quantile(count - 1) * error
    return Estimate(mean, mean - half, mean + half, len(values), count)


def values(episode: Episode, players: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics of one match. A metric per seat is averaged over the seats of `players` (None: over all seats)."""
    wanted = None if players is None else set(players)
    seats = [seat for seat, player in episode.players.items() if wanted is None or player in wanted]
    found: dict[str, float] = {}
    for name, value in episode.result.metrics.items():
        if isinstance(value, Mapping):
            own = [float(value[seat]) for seat in seats if seat in value]
            if own:
                found[name] = sum(own) / len(own)
        else:
            found[name] = float(value)
    return found


def summarise(episodes: Iterable[Episode], players: Iterable[str] | None = None) -> dict[str, Estimate]:
    """Every metric of the episodes, clustered by scenario cluster. A metric that a match lacks is not counted there."""
    wanted = None if players is None else list(players)
    columns: dict[str, tuple[list[float], list[str]]] = defaultdict(lambda: ([], []))
    for episode in episodes:
        for name, value in values(episode, wanted).items():
            columns[name][0].append(value)
            columns[name][1].append(episode.scenario.cluster)
    return {name: estimate(*column) for name, column in columns.items()}


def paired(before: Iterable[Episode], after: Iterable[Episode], metric: str, players: Iterable[str] | None = None) -> Estimate:
    """The mean difference after - before over the scenarios that both sets played, clustered by scenario cluster.

    Several matches of one scenario are averaged first. ValueError where the sets share no scenario.
    """
    wanted = None if players is None else list(players)
    first, second = (_by_scenario(episodes, metric, wanted) for episodes in (before, after))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError(f"the two sets of episodes share no scenario with the metric {metric!r}")
    return estimate([second[key] - first[key] for key in shared], [cluster for _, cluster in shared])


def _by_scenario(episodes: Iterable[Episode], metric: str, players: Sequence[str] | None) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for episode in episodes:
        value = values(episode, players).get(metric)
        if value is not None:
            found[episode.scenario.id, episode.scenario.cluster].append(value)
    return {key: sum(column) / len(column) for key, column in found.items()}


def language(episodes: Iterable[Episode], players: Iterable[str]) -> dict[str, float]:
    """How the players' own words read: mean log-prob and entropy estimate per reply, words, length, variety.

    `entropy` is the mean of -log p(reply) in nats, an unbiased estimate of the entropy of a reply where the episodes
    were sampled at temperature 1 without truncation.
    """
    wanted = set(players)
    replies = tokens = words = 0
    logprob = 0.0
    seen: set[str] = set()
    texts: set[str] = set()
    for episode in episodes:
        for turn in episode.turns:
            if turn.call is None or episode.players[turn.seat] not in wanted:
                continue
            split = turn.text.split()
            replies, tokens, words = replies + 1, tokens + len(turn.call.sampled_ids), words + len(split)
            logprob += sum(turn.call.logprobs)
            seen.update(split)
            texts.add(turn.text)
    if not replies:
        return {}
    return {
        "replies": replies,
        "entropy": -logprob / replies,
        "reply_tokens": tokens / replies,
        "distinct_words": len(seen),
        "distinct_replies": len(texts) / replies,
    }
