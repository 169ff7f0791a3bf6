"""Plays a single match from Python, for notebooks and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..data.episode import Episode
from ..data.replay import replay
from ..games.base import Game, Scenario, seats
from ..models.snapshot import Snapshot
from ..play.pairing import fixed
from ..play.player import Backend, Sampling
from ..play.seats import Seats
from ..report import transcript as transcripts

if TYPE_CHECKING:
    from ..backends.hf import HFBackend


def play_match(
    game: Game,
    players: Mapping[str, Snapshot | str],
    scenario: Scenario | None = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),
    backend: Callable[[], Backend] | None = None,
) -> Episode:
    """Plays one match (rollout) and stores nothing.

    players   each role's player: a snapshot, the name of a script of the game, or "human" at this terminal
    scenario  None: the first of the split "test"
    sampling  of the snapshots' replies; the same seed gives the same match
    backend   creates the backend that samples them; None: transformers on the CPU

    ValueError if a role has no player; KeyError names an unknown script.
    """
    chosen = scenario or game.scenarios("test")[0]
    missing = [role for role in seats(game, chosen) if role not in players]
    if missing:
        raise ValueError(f"nobody plays {', '.join(missing)}: {game.name} has the roles {', '.join(game.roles)}")
    named = {role: who.version if isinstance(who, Snapshot) else who for role, who in players.items()}
    snapshots = {who.version: who for who in players.values() if isinstance(who, Snapshot)}
    with Seats(game, backend or _transformers, 1).open(sampling, snapshots) as sitting:
        (seating,) = fixed(game, [chosen], named, seed, "match")
        return sitting.match(seating)


def transcript(game: Game, episode: Episode) -> str:
    """The match as plain text: each seat's private view with its replies, then how it ended."""
    told = transcripts.plain(episode, replay(game, episode).views)
    return f"{told}\n\noutcome: {transcripts.ending(episode)}"


def _transformers() -> HFBackend:
    from ..backends.hf import HFBackend

    return HFBackend()
