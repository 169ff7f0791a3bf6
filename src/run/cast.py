"""The seating of a run: `players` assigns a player to each seat, for all stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..games.base import Game, services
from ..models.snapshot import Snapshot

Tables = list[tuple[str, dict[str, str]]]  # (role that the scenario must seat, or ""; the player of each seat)
Snapshots = Mapping[str, Snapshot]  # the snapshot of each policy
History = Sequence[Snapshots]  # the snapshots of every iteration so far, the start first


@dataclass(frozen=True, slots=True)
class Cast:
    """Seats the policies, and the other players that `players` names.

    A name is a policy, `policy@3` (its frozen copy of iteration 3; the newest until that is made), `start`, a name of
    `opponents`, a script, or human. A role without a name belongs to the first policy.
    """

    game: Game
    players: Mapping[str, str]
    policies: tuple[str, ...]
    start: str  # name of the start
    league: bool = False  # every policy plays all roles, and the league chooses its opponents

    @property
    def table(self) -> dict[str, str]:
        """The player of each role in an evaluation, and in play without `opponent`; services only if not played by the
        game itself."""
        first = self.policies[0]
        if "opponent" in self.players:
            return self.all(first)
        default = self.players.get("default", first)
        return {role: self.players.get(role, default) for role in self.game.roles} | self.serving

    @property
    def tables(self) -> Tables:
        """The tables of an evaluation without opponents: one table, or in a league one per policy in self-play."""
        return [("", self.all(policy)) for policy in self.policies] if self.league else [("", self.table)]

    @property
    def serving(self) -> dict[str, str]:
        """The players of services that are not the game's own."""
        return {seat: self.players[seat] for seat in services(self.game) if seat in self.players}

    @property
    def round(self) -> Tables:
        """The tables of a round of play: one table, or with `opponent` the first policy in each role in turn."""
        if "opponent" in self.players:
            return self.against(self.policies[0], self.players["opponent"])
        return [("", self.table)]

    def all(self, name: str) -> dict[str, str]:
        """The table at which `name` plays every role."""
        return dict.fromkeys(self.game.roles, name) | self.serving

    def roles(self, policy: str) -> tuple[str, ...]:
        """The roles that a policy plays."""
        if self.league and policy in self.policies:
            return self.game.roles
        return tuple(role for role in self.game.roles if self.table[role] == policy)

    def against(self, policy: str, other: str) -> Tables:
        """A policy in each of its roles in turn, `other` in all the others."""
        return [(role, {**self.all(other), role: policy}) for role in self.roles(policy)]

    def every(self, other: str) -> Tables:
        """The tables of all policies against `other`."""
        return [table for policy in self.policies for table in self.against(policy, other)]

    def backwards(self, number: int) -> Tables:
        """The tables of all policies against the other roles' policies of the iteration before `number`."""
        before = {policy: f"{policy}@{number - 1}" for policy in self.policies}
        others = {role: before.get(name, name) for role, name in self.table.items()}
        return [(role, {**others, role: name}) for role, name in self.table.items() if name in before]

    def meeting(self, one: str, other: str) -> Tables:
        """The tables of a tournament's pair: `one` in each role that it can play, `other` in all the others; none if
        `other` cannot play them."""
        able = {name: set(self.roles(_policy(name)) or self.game.roles) for name in (one, other)}
        first, second = (self._meeting(*pair, able) for pair in ((one, other), (other, one)))
        return first or second

    def _meeting(self, one: str, other: str, able: Mapping[str, set[str]]) -> Tables:
        roles = [role for role in self.game.roles if role in able[one]]
        return [(role, {**self.all(other), role: one}) for role in roles if {*self.game.roles} - {role} <= able[other]]

    def snapshots(self, names: Iterable[str], history: History) -> dict[str, Snapshot]:
        """The snapshots of those of `names` that are policies, frozen copies of them, or the start."""
        found = {}
        for name in names:
            policy, frozen, number = name.partition("@")
            if name == self.start:
                found[name] = history[0][self.policies[0]]
            elif policy in self.policies:
                found[name] = history[min(int(number), len(history) - 1) if frozen else -1][policy]
        return found

    def frozen(self) -> Iterator[tuple[str, int]]:
        """(policy, iteration) of the frozen copies that are seated."""
        for name in self.players.values():
            policy, frozen, number = name.partition("@")
            if frozen and number.isdecimal():
                yield policy, int(number)


def _policy(name: str) -> str:
    """The policy of a tournament's member: learner of learner@3, and of RUN:learner@3."""
    return name.rpartition(":")[2].partition("@")[0]


def names(tables: Tables) -> list[str]:
    """All players at the tables, in order of first appearance."""
    return list(dict.fromkeys(name for _, players in tables for name in players.values()))
