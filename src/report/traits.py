"""What a match can be found by: in the list of a report, and in a search across runs."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.episode import Episode
from ..system.printing import printable


@dataclass(frozen=True, slots=True)
class Traits:
    """Of one match.

    blamed   somebody was put out of the match; retried: some reply was illegal
    forked   some view did not extend the tokens before it
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
