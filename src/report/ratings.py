"""Ratings from a table of meetings: Bradley-Terry with a seat effect, the share of the table it does not explain, the
Nash mixture and alpha-rank.

A draw counts as half a win. Intervals come from a bootstrap over scenario clusters; all pairs share them, so
differences of ratings are paired. Bounds are NaN without resamples, or with fewer than two clusters. Axes: M members, R
meetings (pair and seating), K clusters, B resamples, P parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, log
from typing import TYPE_CHECKING, Any

from ..data.episode import Episode
from ..games.mixtures import alpha_rank, nash
from ..system.seeds import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ELO = 400 / log(10)  # Elo points per unit of log-odds
CYCLIC = 0.2  # cyclic share above which one number per member is misleading


@dataclass(frozen=True, slots=True)
class Meeting:
    """The matches of `one` in `role` against `other`: cluster -> (matches, points of `one`)."""

    one: str
    other: str
    role: str
    clusters: Mapping[str, tuple[int, float]]


def meetings(one: str, other: str, episodes: Iterable[Episode]) -> list[Meeting]:
    """The matches of a pair, one meeting per role of `one`; if `one` has no single role, one meeting with role ""."""
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for episode in episodes:
        roles = [seat for seat in episode.result.returns if episode.players[seat] == one]
        clusters = found.setdefault(roles[0] if len(roles) == 1 else "", {})
        n, total = clusters.get(episode.scenario.cluster, (0, 0.0))
        clusters[episode.scenario.cluster] = n + 1, total + points(episode, one)
    return [Meeting(one, other, role, clusters) for role, clusters in found.items()]


def points(episode: Episode, name: str) -> float:
    """1 if the player `name` got more than the others on average, 0 if less, else 1/2."""
    own = [value for seat, value in episode.result.returns.items() if episode.players[seat] == name]
    rest = [value for seat, value in episode.result.returns.items() if episode.players[seat] != name]
    lead = sum(own) / len(own) - sum(rest) / len(rest)
    return 0.5 if abs(lead) < 1e-9 else float(lead > 0)


@dataclass(frozen=True, slots=True)
class Ratings:
    """The result of `rate`.

    elo         member -> (rating, low, high); the anchor's rating is 1000
    seat        Elo points gained by sitting in `first_role`, with interval; None unless the game has two roles
    matrix      [M, M] mean points of the row's member against the column's, with low and high; None if a pair never met
    deviance    deviance of the fit from the observed table, with `freedom` degrees of freedom
    cyclic      share of the table that no rating explains, minus that expected by chance; None if pairs are missing
    nash, alpha_rank   share of each member in the Nash mixture (which loses to none) and in alpha-rank's
    """

    members: tuple[str, ...]
    elo: Mapping[str, tuple[float, float, float]]
    seat: tuple[float, float, float] | None
    first_role: str
    matrix: Sequence[Sequence[tuple[float, float, float] | None]]
    matches: Sequence[Sequence[int]]
    deviance: float
    freedom: int
    cyclic: float | None
    nash: Mapping[str, float] = field(default_factory=dict)
    alpha_rank: Mapping[str, float] = field(default_factory=dict)

    @property
    def misleading(self) -> bool:
        """Whether one number per member describes the table badly (too many cycles)."""
        return self.cyclic is not None and self.cyclic > CYCLIC

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON, by member name instead of index; an unknown bound becomes null."""
        spans = {name: _named(span) for name, span in self.elo.items()}
        seat = self.seat and _named(self.seat)
        rows = {
            name: {other: span and _known(span) for other, span in zip(self.members, row, strict=True)}
            for name, row in zip(self.members, self.matrix, strict=True)
        }
        return {
            "ratings": spans, "seat": {self.first_role: seat} if seat else None, "deviance": self.deviance,
            "freedom": self.freedom, "cyclic": self.cyclic, "misleading": self.misleading, "nash": dict(self.nash),
            "alpha_rank": dict(self.alpha_rank), "points": rows,
        }  # fmt: skip


def rate(
    found: Sequence[Meeting], anchor: str, roles: Sequence[str], seed: int, resamples: int, alpha: float = 10.0
) -> Ratings:
    """Rates all members in `found`, and the anchor. `roles` are the game's; with two roles a seat effect is fitted."""
    import numpy as np

    members = tuple(dict.fromkeys([*(name for each in found for name in (each.one, each.other)), anchor]))
    clusters = sorted({cluster for each in found for cluster in each.clusters})
    n_RK, s_RK = (_table(found, clusters, at) for at in (0, 1))
    design_RP = _design(found, members, roles)
    rng = np.random.default_rng(derive(seed, "bootstrap"))
    weight_BK = np.zeros((0, len(clusters)))
    if len(clusters) > 1:
        weight_BK = rng.multinomial(len(clusters), [1 / len(clusters)] * len(clusters), size=resamples).astype(float)
    theta_P = fitted(design_RP, n_RK.sum(1)[None], s_RK.sum(1)[None])[0]
    theta_BP = fitted(design_RP, weight_BK @ n_RK.T, weight_BK @ s_RK.T)
    at, many = members.index(anchor), len(members)
    elo = {
        name: _span(theta_P[i] - theta_P[at], theta_BP[:, i] - theta_BP[:, at], 1000) for i, name in enumerate(members)
    }
    seat = _span(theta_P[many], theta_BP[:, many], 0) if design_RP.shape[1] > many else None
    points_MM, n_MM = _matrix(found, members, n_RK.sum(1), s_RK.sum(1))
    drawn = [_matrix(found, members, weight @ n_RK.T, weight @ s_RK.T)[0] for weight in weight_BK]
    whole = bool((n_MM + np.eye(many) > 0).all())
    payoffs = (points_MM - 0.5).tolist()
    return Ratings(
        members, elo, seat, roles[0] if roles else "", _cells(points_MM, n_MM, drawn), n_MM.astype(int).tolist(),
        deviance=_deviance(design_RP @ theta_P, n_RK.sum(1), s_RK.sum(1)),
        freedom=max(len(found) - design_RP.shape[1] + 1, 0),
        cyclic=cyclic(points_MM, drawn) if whole else None,
        nash=dict(zip(members, nash(payoffs), strict=True)) if whole else {},
        alpha_rank=dict(zip(members, alpha_rank(payoffs, alpha), strict=True)) if whole else {},
    )  # fmt: skip


def _cells(points_MM: Array, n_MM: Array, drawn: Sequence[Array]) -> list[list[tuple[float, float, float] | None]]:
    import numpy as np

    low_MM, high_MM = np.percentile(drawn, [2.5, 97.5], axis=0) if drawn else np.full((2, *points_MM.shape), np.nan)
    members = range(len(points_MM))
    return [
        [(float(points_MM[i, j]), float(low_MM[i, j]), float(high_MM[i, j])) if n_MM[i, j] else None for j in members]
        for i in members
    ]


def fitted(design_RP: Array, n_BR: Array, s_BR: Array, prior: float = 1.0) -> Array:
    """Bradley-Terry parameters [B, P] in log-odds, by Newton's method, for each row of matches `n` and points `s`.

    `prior` virtual draws of each member (and each seat) against rating 0 keep the parameters finite if a member never
    lost.
    """
    import numpy as np

    theta_BP = np.zeros((len(n_BR), design_RP.shape[1]))
    for _ in range(100):
        p_BR, q_BP = _sigmoid(theta_BP @ design_RP.T), _sigmoid(theta_BP)
        gradient_BP = (s_BR - n_BR * p_BR) @ design_RP + prior * (0.5 - q_BP)
        hessian = np.einsum("rp,br,rq->bpq", design_RP, n_BR * p_BR * (1 - p_BR), design_RP)
        hessian += np.einsum("bp,pq->bpq", prior * q_BP * (1 - q_BP), np.eye(design_RP.shape[1]))
        step_BP = np.linalg.solve(hessian, gradient_BP[..., None])[..., 0]
        theta_BP += np.clip(step_BP, -2, 2)
        if not len(step_BP) or np.abs(step_BP).max() < 1e-10:
            break
    return theta_BP


def cyclic(points_MM: Array, drawn: Sequence[Array]) -> float:
    """The share of the antisymmetric table that differences of row means do not explain (0: one number per member
    explains everything; 1: rock, paper, scissors). The mean noise of the resampled tables `drawn` is subtracted from
    numerator and denominator."""
    import numpy as np

    def parts(table_MM: Array) -> tuple[float, float]:
        edge = (table_MM - table_MM.T) / 2
        mean_M = edge.mean(1)
        return float(((edge - mean_M[:, None] + mean_M) ** 2).sum()), float((edge**2).sum())

    curl, whole = parts(points_MM)
    noise = np.mean([parts(each - points_MM) for each in drawn], axis=0) if drawn else (0.0, 0.0)
    left, total = curl - noise[0], whole - noise[1]
    return float(min(max(left / total, 0.0), 1.0)) if total > 1e-12 else 0.0


def _table(found: Sequence[Meeting], clusters: Sequence[str], at: int) -> Array:
    import numpy as np

    rows = [[each.clusters.get(cluster, (0, 0.0))[at] for cluster in clusters] for each in found]
    return np.array(rows, dtype=float).reshape(len(found), len(clusters))


def _design(found: Sequence[Meeting], members: Sequence[str], roles: Sequence[str]) -> Array:
    """[R, P] design matrix: +1 for `one`, -1 for `other`; with two roles also +1 if `one` has the first role, else
    -1."""
    import numpy as np

    seats = len(roles) == 2 and {each.role for each in found} == set(roles)
    design_RP = np.zeros((len(found), len(members) + seats))
    for at, each in enumerate(found):
        design_RP[at, members.index(each.one)] += 1
        design_RP[at, members.index(each.other)] -= 1
        if seats:
            design_RP[at, -1] = 1 if each.role == roles[0] else -1
    return design_RP


def _matrix(found: Sequence[Meeting], members: Sequence[str], n_R: Array, s_R: Array) -> tuple[Array, Array]:
    """([M, M] mean points with equal weight for each seating of a pair, [M, M] matches); 1/2 if a pair never met."""
    import numpy as np

    sums, seatings, n_MM = (np.zeros((len(members), len(members))) for _ in range(3))
    for each, n, s in zip(found, n_R, s_R, strict=True):
        if n > 0:
            i, j = members.index(each.one), members.index(each.other)
            sums[i, j] += s / n
            sums[j, i] += 1 - s / n
            for pair in ((i, j), (j, i)):
                seatings[pair] += 1
                n_MM[pair] += n
    return np.where(seatings > 0, sums / np.maximum(seatings, 1), 0.5), n_MM


def _deviance(logit_R: Array, n_R: Array, s_R: Array) -> float:
    """2 (log-likelihood of the saturated model - that of the fit), with draws as half wins."""
    import numpy as np

    share, fit = np.clip(s_R / n_R, 1e-12, 1 - 1e-12), np.clip(_sigmoid(logit_R), 1e-12, 1 - 1e-12)
    apart = share * np.log(share / fit) + (1 - share) * np.log((1 - share) / (1 - fit))
    return float(2 * (n_R * apart).sum())


def _sigmoid(x: Array) -> Array:
    import numpy as np

    found: Array = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return found


def _span(value: float, drawn_B: Array, anchor: float) -> tuple[float, float, float]:
    """(rating, low, high) in Elo; low and high bound the middle 95 % of its resamples, NaN without any."""
    import numpy as np

    low, high = np.percentile(drawn_B, [2.5, 97.5]) if len(drawn_B) else (np.nan, np.nan)
    return float(value * ELO + anchor), float(low * ELO + anchor), float(high * ELO + anchor)


def _named(span: tuple[float, float, float]) -> dict[str, float | None]:
    return dict(zip(("elo", "low", "high"), _known(span), strict=True))


def _known(span: tuple[float, float, float]) -> list[float | None]:
    return [None if isnan(each) else each for each in span]
