"""Suite: a game of several games. One model learns all of them in one run, and is evaluated in each.

A scenario of the member `deal` has the id `deal/<its own id>` and is played by Deal's rules; the suite's metrics are
`deal.score` and so on. It has the roles of all members; a match seats its member's. A script plays for the suite
if every member has one of that name. Each member passes the conformance kit by itself, and so does the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random

from . import base
from .base import Facts, Game, Match, Reply, Request, Result, Scenario, Script, Tool
from .splits import SPLITS

MEMBER = "member"  # key of the member's name in an observation
UNSEEN = "unseen."  # prefix of the metrics of members that are not trained on


class Suite:
    """The game. `members` are games by name; a split has at most `limit` scenarios of each (None: all), alternating.

    `unseen` names members in the test split only, to measure transfer, with metrics such as `unseen.deal.score`.
    ValueError for incompatible members.
    """

    name = "suite"

    def __init__(self, members: Mapping[str, Game], limit: int | None = None, unseen: Sequence[str] = ()) -> None:
        if odd := sorted(name for name in members if "/" in name):
            raise ValueError(f"the names {odd} of members hold a '/', which ends a member's name in a scenario's id")
        if odd := sorted({*unseen} - members.keys()) or ([] if members.keys() - {*unseen} else [*unseen]):
            raise ValueError(f"unseen names {odd}: expected some, not all, of the members {', '.join(members)}")
        self.members, self.limit, self.unseen = dict(members), limit, frozenset(unseen)
        self.version = ", ".join(f"{name} {game.version}" for name, game in self.members.items())
        self.roles = tuple(dict.fromkeys(role for game in self.members.values() for role in game.roles))
        self.services = self._services()
        self.facts = self._facts()

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The scenarios of the split's members, alternating, so that the first few cover every member."""
        each = [
            [_outer(name, scenario) for scenario in game.scenarios(split)[: self.limit]]
            for name, game in self.members.items()
            if split == SPLITS[-1] or name not in self.unseen
        ]
        return [scenario for turn in zip_longest(*each) for scenario in turn if scenario is not None]

    def seats(self, scenario: Scenario) -> tuple[str, ...]:
        """The roles that the member seats."""
        _, game, inner = self._member(scenario)
        return base.seats(game, inner)

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A match of the member."""
        name, game, inner = self._member(scenario)
        return _Match(name, self._told(name), game.match(inner, seed), frozenset(game.roles))

    def scripts(self) -> Mapping[str, Script]:
        """The scripts that every member has; each request goes to its member's script."""
        members = {name: game.scripts() for name, game in self.members.items()}
        shared = set.intersection(*(set(found) for found in members.values()))
        return {script: _script({name: found[script] for name, found in members.items()}) for script in sorted(shared)}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """The member's secrets, or {}: a member without them is compared in its own conformance check."""
        _, game, inner = self._member(scenario)
        declared: Callable[[Scenario], Mapping[str, Sequence[str]]] | None = getattr(game, "secrets", None)
        return {} if declared is None else declared(inner)

    def _member(self, scenario: Scenario) -> tuple[str, Game, Scenario]:
        """(name, member, the member's own scenario) of a scenario."""
        name, _, inner = scenario.id.partition("/")
        return name, self.members[name], Scenario(inner, scenario.data, scenario.cluster.removeprefix(f"{name}/"))

    def _told(self, name: str) -> str:
        """The prefix of a member's metrics."""
        return f"{UNSEEN if name in self.unseen else ''}{name}."

    def _services(self) -> dict[str, Script | Tool]:
        """The services of all members. ValueError for a name that two of them use."""
        found: dict[str, Script | Tool] = {}
        for name, game in self.members.items():
            own = base.services(game)
            if clash := sorted(own.keys() & {*found, *self.roles}):
                raise ValueError(f"the services {clash} of {name} have the name of another member's seat")
            found |= own
        return found

    def _facts(self) -> Facts:
        """Facts that hold for every member. ValueError if only some hold scenarios out."""
        facts = {name: game.facts for name, game in self.members.items()}
        if len({each.held_out for each in facts.values()}) > 1:
            raise ValueError(
                "some members hold scenarios out (facts.held_out) and others do not: put them in two suites"
            )
        return Facts(
            min_return=min(each.min_return for each in facts.values()),
            max_return=max(each.max_return for each in facts.values()),
            max_requests=max(each.max_requests for each in facts.values()),
            max_retries=max(each.max_retries for each in facts.values()),
            zero_sum=all(each.zero_sum for each in facts.values()),
            history=any(each.history for each in facts.values()),
            metrics={
                self._told(name) + key: text for name, each in facts.items() for key, text in each.metrics.items()
            },
            ceilings={
                self._told(name) + key: self._told(name) + most
                for name, each in facts.items()
                for key, most in each.ceilings.items()
            },
            held_out=all(each.held_out for each in facts.values()),
        )


@dataclass(frozen=True, slots=True)
class _Match:
    """A member's match: requests to roles carry the member's name, and metrics the prefix `told`."""

    member: str
    told: str
    inner: Match
    roles: frozenset[str]

    def start(self) -> Sequence[Request]:
        return self._outer(self.inner.start())

    def step(self, replies: Sequence[Reply]) -> Sequence[Request]:
        return self._outer(self.inner.step(replies))

    def result(self) -> Result:
        result = self.inner.result()
        return replace(result, metrics={self.told + name: each for name, each in result.metrics.items()})

    def _outer(self, requests: Sequence[Request]) -> list[Request]:
        return [self._signed(each) if each.seat in self.roles else each for each in requests]

    def _signed(self, request: Request) -> Request:
        return replace(request, observation={**(request.observation or {}), MEMBER: self.member})


def _outer(name: str, scenario: Scenario) -> Scenario:
    """The suite's form of a member's scenario."""
    return Scenario(f"{name}/{scenario.id}", scenario.data, f"{name}/{scenario.cluster}")


def _script(members: Mapping[str, Script]) -> Script:
    """Delegates to the script of the requesting member."""

    def script(request: Request, own: Random, persona: Random) -> str:
        seen = dict(request.observation or {})
        return members[seen.pop(MEMBER)](replace(request, observation=seen or None), own, persona)

    return script
