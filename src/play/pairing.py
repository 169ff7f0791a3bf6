"""Who meets whom: what is played is settled here, in full, before anything is played.

A match's id is "<stage>/<scenario id>/<number>", the same on every machine and in every order; its seed derives from
it (of an evaluation's without the iteration, so that the figures of two iterations can be paired).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..data.episode import Episode, Turn
from ..games.base import Game, Scenario
from ..system.seeds import derive


@dataclass(frozen=True, slots=True)
class Seating:
    """One planned match: its stable id, what is played, and the player's name in each role.

    seed     of the game's chance; `draw` of the replies (None: the same), which tells the branches of one match apart
    prefix   turns that are not asked again: the match begins with them
    parent   (match id, turns): so many turns of the prefix were taken from that match; the others are this match's own,
             which was cut off before
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
        """What this match's chance is named by: a branch shares its parent's, so that its scripts stay the same
        persons."""
        return unnumbered(self.parent[0] if self.parent else self.match)


def unnumbered(match: str) -> str:
    """The id of an evaluation's match without its iteration; any other id as it is."""
    return _EVALUATION.sub("eval/", match)


_EVALUATION = re.compile(r"\Aiter_\d+/eval/")


@dataclass(frozen=True, slots=True)
class Seatings:
    """A plan of matches: made anew, and the same, each time that it is gone through, so that nothing of it is held."""

    make: Callable[[], Iterator[Seating]]

    def __iter__(self) -> Iterator[Seating]:
        return self.make()


def fixed(
    game: Game, scenarios: Sequence[Scenario], players: Mapping[str, str], seed: int, stage: str, k: int = 1
) -> Seatings:
    """`k` matches of every scenario, the same player in each role throughout. ValueError for roles the game lacks."""
    if set(players) != set(game.roles):
        raise ValueError(f"{game.name} has the roles {list(game.roles)}, got players for {list(players)}")
    return Seatings(partial(_seated, scenarios, [players], seed, stage, k))


def self_play(game: Game, scenarios: Sequence[Scenario], name: str, seed: int, stage: str, k: int = 1) -> Seatings:
    """`k` matches of every scenario with the player `name` in every seat."""
    return fixed(game, scenarios, dict.fromkeys(game.roles, name), seed, stage, k)


def both_seatings(
    game: Game, scenarios: Sequence[Scenario], a: str, b: str, seed: int, stage: str, k: int = 1
) -> Seatings:
    """Every scenario with `a` in each role in turn and `b` in all others, `k` times: 2k matches of a game for two."""
    tables = [{role: a if role == own else b for role in game.roles} for own in game.roles]
    return Seatings(partial(_seated, scenarios, tables, seed, stage, k))


def branches(episode: Episode, turns: int, players: Mapping[str, str], seed: int, stage: str, k: int = 1) -> Seatings:
    """`k` continuations of a stored match from its first `turns` turns on, each with replies drawn anew.

    ValueError for more turns than it has.
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
    scenarios: Sequence[Scenario], tables: Sequence[Mapping[str, str]], seed: int, stage: str, k: int
) -> Iterator[Seating]:
    """Seats every scenario at all `tables`, `k` times. One that is drawn again goes on with its numbers."""
    played: Counter[str] = Counter()
    for scenario in scenarios:
        for players in [*tables] * k:
            match = f"{stage}/{scenario.id}/{played[scenario.id]}"
            played[scenario.id] += 1
            yield Seating(match, scenario, derive(seed, "match", unnumbered(match)), players)
