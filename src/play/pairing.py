"""Pairing: plans all matches (rollouts) of a stage before any is played.

A match's id is "<stage>/<scenario id>/<number>", the same on every machine and in every order; its seed derives from
it (of an evaluation's without the iteration, so that the figures of two iterations can be paired).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from ..data.episode import Episode, Turn
from ..games.base import Game, Scenario, seats, services
from ..system.seeds import derive

Tables: TypeAlias = Sequence[tuple[str, Mapping[str, str]]]
"""Tables of a scenario: (role that the scenario must seat, or ""; the player of each seat)."""


@dataclass(frozen=True, slots=True)
class Seating:
    """One planned match: its stable id, its scenario, and the player's name in each role and service.

    seed     seed of the game's chance; `draw` seeds the replies (None: the same), and differs between branches of a
             match
    prefix   recorded turns with which the match begins
    parent   (match id, turns): the first `turns` turns of the prefix come from that match; the others are this match's
             own from before a kill
    """

    match: str
    scenario: Scenario
    seed: int
    players: Mapping[str, str]
    prefix: tuple[Turn, ...] = ()
    draw: int | None = None
    parent: tuple[str, int] | None = None

    @property
    def chance(self) -> str:
        """The name from which the match's randomness derives; branches use their parent's, so that scripts keep their
        personas."""
        return unnumbered(self.parent[0] if self.parent else self.match)


def unnumbered(match: str) -> str:
    """The id of an evaluation's match without its iteration; other ids unchanged."""
    return _EVALUATION.sub("eval/", match)


_EVALUATION = re.compile(r"\Aiter_\d+/eval/")


@dataclass(frozen=True, slots=True)
class Seatings:
    """A plan of matches as a pure function: regenerated on each pass, never held in memory."""

    make: Callable[[], Iterator[Seating]]

    def __iter__(self) -> Iterator[Seating]:
        return self.make()


def seated(game: Game, scenario: Scenario, players: Mapping[str, str]) -> dict[str, str]:
    """The player of each seat, from `players`; a missing service is played by the game's own script or tool, under the
    service's name."""
    roles = {role: players[role] for role in seats(game, scenario)}
    return roles | {service: players.get(service, service) for service in services(game)}


def fixed(
    game: Game, scenarios: Sequence[Scenario], players: Mapping[str, str], seed: int, stage: str, k: int = 1
) -> Seatings:
    """`k` matches of every scenario, with the given player in each role (and service).

    ValueError for a missing role, and for unknown seats.
    """
    if not {*game.roles} <= players.keys() <= {*game.roles, *services(game)}:
        also = f" and the services {list(services(game))}" if services(game) else ""
        raise ValueError(f"{game.name} has the roles {list(game.roles)}{also}, got players for {list(players)}")
    return Seatings(
        partial(_seated, lambda: ((each, [seated(game, each, players)]) for each in scenarios), seed, stage, k)
    )


def self_play(
    game: Game,
    scenarios: Sequence[Scenario],
    name: str,
    seed: int,
    stage: str,
    k: int = 1,
    serving: Mapping[str, str] = {},
) -> Seatings:
    """`k` matches of every scenario with the player `name` in every role; `serving` names other players than the game's
    own for services."""
    return fixed(game, scenarios, {**dict.fromkeys(game.roles, name), **serving}, seed, stage, k)


def both_seatings(
    game: Game,
    scenarios: Sequence[Scenario],
    a: str,
    b: str,
    seed: int,
    stage: str,
    k: int = 1,
    serving: Mapping[str, str] = {},
) -> Seatings:
    """Every scenario with `a` in each role in turn and `b` in all others, `k` times: 2k matches of a game for two."""
    others = {**dict.fromkeys(game.roles, b), **serving}
    return in_turn(game, scenarios, [(role, {**others, role: a}) for role in game.roles], seed, stage, k)


def in_turn(game: Game, scenarios: Sequence[Scenario], tables: Tables, seed: int, stage: str, k: int = 1) -> Seatings:
    """Every scenario at each of `tables` (a role, and the players), `k` times.

    A table is skipped if the scenario does not seat its role ("" is always seated).
    """
    return Seatings(
        partial(_seated, lambda: ((each, _there(game, each, tables)) for each in scenarios), seed, stage, k)
    )


def at_own(game: Game, plan: Sequence[tuple[Scenario, Tables]], seed: int, stage: str, k: int = 1) -> Seatings:
    """Like `in_turn`, with separate tables for each scenario."""
    return Seatings(
        partial(_seated, lambda: ((each, _there(game, each, tables)) for each, tables in plan), seed, stage, k)
    )


def _there(game: Game, scenario: Scenario, tables: Tables) -> list[dict[str, str]]:
    there = seats(game, scenario)
    return [seated(game, scenario, players) for role, players in tables if role in ("", *there)]


def branches(episode: Episode, turns: int, players: Mapping[str, str], seed: int, stage: str, k: int = 1) -> Seatings:
    """`k` branches of a stored match after its first `turns` turns, with newly sampled replies.

    ValueError if the match has fewer turns.
    """
    if not 0 <= turns <= len(episode.turns):
        raise ValueError(f"match {episode.id} has {len(episode.turns)} turns: it cannot branch after {turns}")

    def make() -> Iterator[Seating]:
        for number in range(k):
            match = f"{stage}/{episode.id}/{turns}/{number}"
            draw = derive(seed, "branch", match)
            yield Seating(
                match, episode.scenario, episode.seed, players, episode.turns[:turns], draw, parent=(episode.id, turns)
            )

    return Seatings(make)


def _seated(
    plan: Callable[[], Iterable[tuple[Scenario, Sequence[Mapping[str, str]]]]], seed: int, stage: str, k: int
) -> Iterator[Seating]:
    """Seats every scenario at all its tables, `k` times. Repeated scenarios continue the numbering."""
    played: Counter[str] = Counter()
    for scenario, tables in plan():
        for players in [*tables] * k:
            match = f"{stage}/{scenario.id}/{played[scenario.id]}"
            played[scenario.id] += 1
            yield Seating(match, scenario, derive(seed, "match", unnumbered(match)), players)
