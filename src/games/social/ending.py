"""The end of a Sotopia episode, in the corrected and the faithful form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from .actions import LEAVE, NONE, Action
from .people import Form


def over(log: Sequence[Mapping[int, Action]], people: int, idle: int, form: Form) -> str | None:
    """ "left" or "stale" if the turns so far (seat -> action) end the episode, else None.

    corrected   fewer than two people are left; more than `idle` actions in a row were none, counting only acting seats
    faithful    as published in January 2024: somebody left in the last turn; seats not at turn count as idle, so that
                with two characters one idle turn of the second ends the episode, but one of the first does not
    """
    if form == "faithful":
        acted = [turn.get(seat, NONE) for turn in log for seat in range(people)]
        left = LEAVE in acted[-people:]
    else:
        acted = [action for turn in log for action in turn.values()]
        left = people - len(gone(log)) < 2
    if left:
        return "left"
    return "stale" if len(list(takewhile(NONE.__eq__, reversed(acted)))) > idle else None


def gone(log: Sequence[Mapping[int, Action]]) -> frozenset[int]:
    """The seats that have left."""
    return frozenset(seat for turn in log for seat, action in turn.items() if action == LEAVE)


def cap(turns: int, form: Form) -> int:
    """The limit of turns of an episode; the published code of January 2024 plays one more than configured."""
    return turns + (form == "faithful")
