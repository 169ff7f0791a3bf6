"""Matchmaking: the share of matches against each member of a league, as a pure function of the payoff table.

`payoffs[a][b]` is a's payoff against b, from 0 (worst) to 1 (best): the win rate in a zero-sum game (a draw counts
half), else a's own return, scaled by the game's range of returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..games.mixtures import nash
from ..system.bounds import Positive

Payoffs: TypeAlias = Mapping[str, Mapping[str, float]]
Shares: TypeAlias = dict[str, float]


class Matching(Protocol):
    """A rule of matchmaking."""

    def __call__(self, payoffs: Payoffs, learner: str, members: Sequence[str]) -> Shares:
        """The share of matches of `learner` against each of `members`, oldest first; the shares sum to 1."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Equal shares for all members (fictitious self-play)."""

    def __call__(self, payoffs: Payoffs, learner: str, members: Sequence[str]) -> Shares:
        return dict.fromkeys(members, 1 / len(members))


@dataclass(frozen=True, slots=True)
class Latest:
    """Only the newest member."""

    def __call__(self, payoffs: Payoffs, learner: str, members: Sequence[str]) -> Shares:
        return {member: float(member == members[-1]) for member in members}


@dataclass(frozen=True, slots=True)
class Pfsp:
    """Prioritised fictitious self-play (Vinyals et al. 2019, AlphaStar), with x the learner's payoff against a member:
    hard has weight (1 - x)^power, var x (1 - x). Equal shares if every weight is 0."""

    weighting: Literal["hard", "var"] = "hard"
    power: Positive = 2.0

    def __call__(self, payoffs: Payoffs, learner: str, members: Sequence[str]) -> Shares:
        got = {member: payoffs[learner].get(member, 0.5) for member in members}
        weights = {k: (1 - x) ** self.power if self.weighting == "hard" else x * (1 - x) for k, x in got.items()}
        return _shares(weights)


@dataclass(frozen=True, slots=True)
class Nash:
    """The Nash mixture of the members among themselves (policy-space response oracles, Lanctot et al. 2017). For
    zero-sum games."""

    zero_sum = True

    def __call__(self, payoffs: Payoffs, learner: str, members: Sequence[str]) -> Shares:
        table = [[payoffs[a].get(b, 0.5) - 0.5 for b in members] for a in members]
        return dict(zip(members, nash(table), strict=True))


def _shares(weights: Mapping[str, float]) -> Shares:
    total = sum(weights.values())
    return {name: each / total if total > 0 else 1 / len(weights) for name, each in weights.items()}


def allotted(shares: Mapping[str, float], count: int) -> list[str]:
    """`count` opponents in these shares, each exact to within one, spread evenly over the list; deterministic."""
    found: list[str] = []
    met = dict.fromkeys(shares, 0)
    for place in range(1, count + 1):
        chosen = max(shares, key=lambda name: shares[name] * place - met[name])
        met[chosen] += 1
        found.append(chosen)
    return found
