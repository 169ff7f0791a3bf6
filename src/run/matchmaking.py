"""Whom the policies of a league meet, and who belongs to it: pure functions of the payoff table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..games.base import Game
from ..play.matching import Matching, Payoffs, Shares, allotted
from ..system.bounds import Count, Share, Whole
from .cast import Cast, Tables


@dataclass(frozen=True, slots=True)
class Exploiter:
    """A policy that learns against the newest copy of the policy `against` alone. It begins anew from its start when it
    gets more than `above` (0 to 1) from it, or `after` iterations at the latest."""

    against: str
    above: Share = 0.7
    after: Count = 4


class League:
    """Who is in it and whom its policies meet.

    matching      whom among the frozen copies (`play.matching`)
    mirror        share of a policy's scenarios in which it plays itself
    anchors       the start, scripts and opponents that are always there, and meet a policy in `anchor_share`
    exploiters    policy -> how it exploits another (`Exploiter`)
    every         iterations between two frozen copies; at_most: copies, of which the least wanted leaves
    scenarios     of the test split, on which each pair meets in both seatings
    resamples     for the intervals of the ratings
    """

    def __init__(
        self,
        matching: Matching,
        mirror: Share,
        anchors: list[str],
        anchor_share: Share,
        exploiters: Mapping[str, Mapping[str, Any]] | None,
        every: Count,
        at_most: Count,
        scenarios: Count,
        resamples: Whole,
    ) -> None:
        if mirror + anchor_share > 1:
            raise ValueError(f"league: mirror={mirror} and anchor_share={anchor_share} are more than 1 together")
        self.matching, self.mirror, self.anchors, self.anchor_share = matching, mirror, anchors, anchor_share
        self.exploiters = {name: Exploiter(**each) for name, each in (exploiters or {}).items()}
        self.every, self.at_most, self.scenarios, self.resamples = every, at_most, scenarios, resamples

    def faults(self, policies: Sequence[str], players: Sequence[str], game: Game) -> Iterator[str]:
        """What does not go together with the game, the policies and the `players` that may be anchors."""
        for name in [name for name in self.anchors if name not in players]:
            yield f"league.anchors: there is no player {name}, only {', '.join(players)}"
        for name, each in self.exploiters.items():
            for key, policy in (("", name), (".against", each.against)):
                if policy not in policies:
                    yield f"league.exploiters.{name}{key}: there is no policy {policy}, only {', '.join(policies)}"
        if len(game.roles) < 2:
            yield f"league: nobody meets anybody in {game.name}, a game for one"
        if getattr(self.matching, "zero_sum", False) and not game.facts.zero_sum:
            yield f"league.matching: it is for zero-sum games, and {game.name} is none here; say league=pfsp"

    def shares(self, policy: str, number: int, copies: Sequence[str], payoffs: Payoffs) -> Shares:
        """How often `policy` meets itself and each member in the round after iteration `number`."""
        if policy in self.exploiters:
            return {f"{self.exploiters[policy].against}@{number}": 1.0}
        anchored = self.anchor_share if self.anchors else 0.0
        rest = 1 - self.mirror - anchored
        found = {policy: self.mirror if copies else self.mirror + rest}
        found |= {name: anchored / len(self.anchors) for name in self.anchors}
        if copies:
            wanted = self.matching(payoffs, f"{policy}@{number}", copies)
            found |= {name: rest * each for name, each in wanted.items()}
        return {name: each for name, each in found.items() if each > 0}

    def frozen(self, before: Sequence[str], number: int, policies: Sequence[str], payoffs: Payoffs) -> list[str]:
        """The copies after iteration `number`, oldest first: those of `before` and the new ones; where they are too
        many, those leave that the matching wants least, the older of equals first."""
        new = [f"{policy}@{number}" for policy in policies] if number and number % self.every == 0 else []
        stay = list(before)
        while len(stay) + len(new) > max(self.at_most, len(new)):
            wanted = self.matching(payoffs, f"{policies[0]}@{number}", stay)
            stay.remove(min(stay, key=lambda name: wanted[name]))
        return [*stay, *new]

    def ages(self, before: Mapping[str, int], number: int, payoffs: Payoffs) -> dict[str, int]:
        """Iterations that each exploiter has learned since its start; 0 for those that begin anew."""
        found = {}
        for name, each in self.exploiters.items():
            age = before.get(name, 0) + (number > 0)
            won = payoffs[f"{name}@{number}"][f"{each.against}@{number}"] > each.above if age else False
            found[name] = 0 if won or age >= each.after else age
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What the payoff table says of the next round: policy -> opponent -> share, and who begins anew."""

    shares: Mapping[str, Shares]
    anew: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Everybody who plays in the round."""
        return list(dict.fromkeys(name for policy, met in self.shares.items() for name in (policy, *met)))

    def tables(self, cast: Cast, policy: str, count: int) -> list[Tables]:
        """The tables of a policy at each of `count` scenarios: the opponent changes with the scenario, never within a
        group."""
        met = allotted(self.shares[policy], count)
        return [[("", cast.all(policy))] if other == policy else cast.meeting(policy, other) for other in met]
