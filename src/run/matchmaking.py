"""Members and matchmaking of a league, as pure functions of the payoff table."""

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
    """A policy that learns only against the newest copy of the policy `against`. It restarts from its start when its
    payoff exceeds `above` (0 to 1), or after `after` iterations."""

    against: str
    above: Share = 0.7
    after: Count = 4


class League:
    """The members of a league, and the opponents of its policies.

    matching      the rule for frozen copies (`play.matching`)
    mirror        share of a policy's scenarios in self-play
    anchors       permanent members (the start, scripts, opponents), in the share `anchor_share` of scenarios
    exploiters    policy -> how it exploits another (`Exploiter`)
    every         iterations between two frozen copies; at_most: maximum number of copies, the one with the smallest
                  share leaves
    scenarios     scenarios of the test split for each pair, in both seatings
    resamples     bootstrap samples for the intervals of the ratings
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
        """Conflicts with the game, the policies and the `players` that may be anchors."""
        for name in [name for name in self.anchors if name not in players]:
            yield f"league.anchors: there is no player {name}, only {', '.join(players)}"
        for name, each in self.exploiters.items():
            for key, policy in (("", name), (".against", each.against)):
                if policy not in policies:
                    yield f"league.exploiters.{name}{key}: there is no policy {policy}, only {', '.join(policies)}"
        if len(game.roles) < 2:
            yield f"league: nobody meets anybody in {game.name}, a game for one"
        if game.facts.min_return == game.facts.max_return:
            yield f"league: {game.name} pays every seat the same, so no member is better than another; say league=none"
        if getattr(self.matching, "zero_sum", False) and not game.facts.zero_sum:
            yield f"league.matching: it is for zero-sum games, and {game.name} is none here; say league=pfsp"

    def shares(self, policy: str, number: int, copies: Sequence[str], payoffs: Payoffs) -> Shares:
        """The shares of `policy` against itself and each member in the round after iteration `number`."""
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
        """The copies after iteration `number`, oldest first: those of `before` and the new ones; beyond `at_most` those
        with the smallest shares leave, the older of equals first."""
        new = [f"{policy}@{number}" for policy in policies] if number and number % self.every == 0 else []
        stay = list(before)
        while len(stay) + len(new) > max(self.at_most, len(new)):
            wanted = self.matching(payoffs, f"{policies[0]}@{number}", stay)
            stay.remove(min(stay, key=lambda name: wanted[name]))
        return [*stay, *new]

    def ages(self, before: Mapping[str, int], number: int, payoffs: Payoffs) -> dict[str, int]:
        """Iterations that each exploiter has learned since its start; 0 for those that restart."""
        found = {}
        for name, each in self.exploiters.items():
            age = before.get(name, 0) + (number > 0)
            won = payoffs[f"{name}@{number}"][f"{each.against}@{number}"] > each.above if age else False
            found[name] = 0 if won or age >= each.after else age
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of the next round: policy -> opponent -> share, and the policies that restart."""

    shares: Mapping[str, Shares]
    anew: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All players of the round."""
        return list(dict.fromkeys(name for policy, met in self.shares.items() for name in (policy, *met)))

    def tables(self, cast: Cast, policy: str, count: int) -> list[Tables]:
        """The tables of a policy for each of `count` scenarios; a group has one opponent."""
        met = allotted(self.shares[policy], count)
        return [[("", cast.all(policy))] if other == policy else cast.meeting(policy, other) for other in met]
