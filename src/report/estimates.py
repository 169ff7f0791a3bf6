"""Estimates with intervals: the metrics of a player over a set of episodes, clustered by scenario cluster."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import isfinite, sqrt
from statistics import NormalDist
from typing import Any

from ..data.episode import Episode


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95 % interval, from `n` values in `clusters` independent clusters."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    def to_json(self) -> dict[str, float | None]:
        """As JSON, with six decimals; a bound that is not finite becomes null."""
        return {key: round(value, 6) if isfinite(value) else None for key, value in asdict(self).items()}


def t_quantile(freedom: int) -> float:
    """Student's 97.5 % quantile: exact below 5 degrees of freedom, else by the series of Abramowitz & Stegun 26.7.5
    (error below 0.1 %)."""
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


def to_json(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates by name, as JSON."""
    return {name: each.to_json() for name, each in figures.items()}


class Column:
    """The values of one figure. Holds only their sums per cluster; clusters are numbered from 0."""

    def __init__(self) -> None:
        self.n, self.total = 0, 0.0
        self._sums, self._counts = array("d"), array("Q")

    def add(self, value: float, cluster: int) -> None:
        if (missing := cluster + 1 - len(self._sums)) > 0:
            self._sums.extend([0.0] * missing)
            self._counts.extend([0] * missing)
        self.n, self.total = self.n + 1, self.total + value
        self._sums[cluster] += value
        self._counts[cluster] += 1

    def residuals(self) -> dict[int, float]:
        """Cluster -> the sum over its values of (value - overall mean)."""
        mean, each = self.total / self.n, enumerate(zip(self._sums, self._counts, strict=True))
        return {cluster: total - count * mean for cluster, (total, count) in each if count}

    def estimate(self) -> Estimate:
        """The mean with its interval, as `estimate` computes it. ValueError if there are no values."""
        if not self.n:
            raise ValueError("no values to estimate from")
        mean = self.total / self.n
        residuals = self.residuals().values()
        if (clusters := len(residuals)) < 2:
            return Estimate(mean, float("-inf"), float("inf"), self.n, clusters)
        error = sqrt(clusters / (clusters - 1) * sum(r * r for r in residuals)) / self.n
        half = t_quantile(clusters - 1) * error
        return Estimate(mean, mean - half, mean + half, self.n, clusters)


def estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of `values` with a cluster-robust interval (Liang & Zeger 1986, with the C/(C-1) correction).

    With fewer than two clusters the spread is unknown, and the interval infinite.
    """
    column, numbers = Column(), dict[Hashable, int]()
    for value, cluster in zip(values, clusters, strict=True):
        column.add(value, numbers.setdefault(cluster, len(numbers)))
    return column.estimate()


def two_way(values: Sequence[float], one: Sequence[Hashable], other: Sequence[Hashable]) -> Estimate:
    """The mean of `values` with an interval robust to two crossed clusterings, such as person and scenario.

    The variance is the sum of those by each clustering minus that by both (Cameron, Gelbach & Miller 2011, eq.
    2.11-2.12, each with its C/(C-1)), but at least the larger of the two, for in small samples the difference can fall
    below it. Student's t and `clusters` count the coarser clustering; with fewer than two clusters of either the
    interval is infinite.
    """
    both = list(zip(one, other, strict=True))
    mean, n = estimate(values, both).mean, len(values)
    clusters = min(len(set(one)), len(set(other)))
    if clusters < 2:
        return Estimate(mean, float("-inf"), float("inf"), n, clusters)
    first, second, crossed = (_variance(values, mean, each) for each in (one, other, both))
    half = t_quantile(clusters - 1) * sqrt(max(first + second - crossed, first, second))
    return Estimate(mean, mean - half, mean + half, n, clusters)


def _variance(values: Sequence[float], mean: float, clusters: Sequence[Hashable]) -> float:
    """The cluster-robust variance of the mean."""
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    return len(sums) / (len(sums) - 1) * sum(total * total for total in sums.values()) / len(values) ** 2


def values(episode: Episode, players: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics of one match. A metric per seat is averaged over the seats of `players` (None: all seats); {} if none
    of them has a seat."""
    wanted = None if players is None else set(players)
    seats = [seat for seat, player in episode.players.items() if wanted is None or player in wanted]
    if wanted is not None and not seats:
        return {}
    found: dict[str, float] = {}
    for name, value in episode.result.metrics.items():
        if isinstance(value, Mapping):
            own = [float(value[seat]) for seat in seats if seat in value]
            if own:
                found[name] = sum(own) / len(own)
        else:
            found[name] = float(value)
    return found


class Tally:
    """Every metric of the added matches, clustered by scenario cluster. Memory grows with the clusters, not the
    matches.

    A match that lacks a metric does not count for it.
    """

    def __init__(self, players: Iterable[str] | None = None) -> None:
        self._players = None if players is None else list(players)
        self._clusters: dict[str, int] = {}
        self.columns: dict[str, Column] = defaultdict(Column)  # by metric

    def add(self, episode: Episode) -> None:
        cluster = self._clusters.setdefault(episode.scenario.cluster, len(self._clusters))
        for name, value in values(episode, self._players).items():
            self.columns[name].add(value, cluster)

    def figures(self) -> dict[str, Estimate]:
        """The estimates so far, by metric."""
        return {name: column.estimate() for name, column in self.columns.items()}


def summarise(episodes: Iterable[Episode], players: Iterable[str] | None = None) -> dict[str, Estimate]:
    """Every metric of the episodes, clustered by scenario cluster. A match that lacks a metric does not count for
    it."""
    tally = Tally(players)
    for episode in episodes:
        tally.add(episode)
    return tally.figures()


def paired(
    before: Iterable[Episode], after: Iterable[Episode], metric: str, players: Iterable[str] | None = None
) -> Estimate:
    """The mean paired difference after - before over the scenarios of both sets, clustered by scenario cluster.

    Several matches of one scenario are averaged first. ValueError if the sets share no scenario.
    """
    wanted = None if players is None else list(players)
    first, second = (_by_scenario(episodes, metric, wanted) for episodes in (before, after))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError(f"the two sets of episodes share no scenario with the metric {metric!r}")
    return estimate([second[key] - first[key] for key in shared], [cluster for _, cluster in shared])


def _by_scenario(
    episodes: Iterable[Episode], metric: str, players: Sequence[str] | None
) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for episode in episodes:
        value = values(episode, players).get(metric)
        if value is not None:
            found[episode.scenario.id, episode.scenario.cluster].append(value)
    return {key: sum(column) / len(column) for key, column in found.items()}


class Language:
    """Language figures of the players' own replies in the added matches."""

    def __init__(self, players: Iterable[str]) -> None:
        self._players = set(players)
        self._replies = self._tokens = self._cut = self._illegal = 0
        self._logprob = 0.0
        self._words: set[str] = set()
        self._texts = array("Q")  # 64-bit digests

    def add(self, episode: Episode) -> None:
        seats = [seat for seat, player in episode.players.items() if player in self._players]
        illegal = frozenset().union(*map(episode.refused, seats))
        for turn in episode.own:
            if turn.call is None or turn.seat not in seats:
                continue
            self._cut += turn.finish == "length"
            self._illegal += turn.request in illegal
            self._replies, self._tokens = self._replies + 1, self._tokens + len(turn.call.sampled_ids)
            self._logprob += sum(turn.call.logprobs)
            self._words.update(turn.text.split())
            self._texts.append(
                int.from_bytes(blake2b(turn.text.encode(errors="surrogatepass"), digest_size=8).digest())
            )

    def figures(self) -> dict[str, float]:
        """As `language` returns them; {} if there is no reply."""
        if not self._replies:
            return {}
        return {
            "replies": self._replies,
            "entropy": -self._logprob / self._replies,
            "reply_tokens": self._tokens / self._replies,
            "distinct_words": len(self._words),
            "distinct_replies": len(set(self._texts)) / self._replies,
            "cut": self._cut / self._replies,
            "illegal": self._illegal / self._replies,
        }


def language(episodes: Iterable[Episode], players: Iterable[str]) -> dict[str, float]:
    """Language figures of the players' own replies: mean log-prob and entropy per reply, words, length, variety.

    `entropy` is the mean of -log p(reply) in nats: an unbiased estimate of a reply's entropy if the episodes were
    sampled at temperature 1 without truncation.
    """
    said = Language(players)
    for episode in episodes:
        said.add(episode)
    return said.figures()
