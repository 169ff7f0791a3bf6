"""Traits of a match, by which a report's list and the search across runs filter."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.episode import Episode
from ..system.printing import printable


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of one match.

    blamed   illegal replies of some seat ended the match
    retried  some reply was illegal and asked for again
    forked   some prompt did not extend its seat's earlier tokens
    """

    match: str
    scenario: str
    outcome: str
    blamed: bool
    retried: bool
    forked: bool


def traits(episode: Episode) -> Traits:
    """The traits of a stored match."""
    return Traits(
        match=printable(episode.id),
        scenario=printable(episode.scenario.id),
        outcome=printable(episode.result.outcome),
        blamed=bool(episode.result.blame),
        retried=any(episode.refused(seat) for seat in episode.players),
        forked=any(turn.call is not None and turn.call.fork is not None for turn in episode.turns),
    )
