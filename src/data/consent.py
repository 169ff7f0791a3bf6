"""Whether what people said in a match may be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .episode import Episode

HUMAN = "human"  # the player's name where a person sits at the terminal
PERSON = "person:"  # how it begins where one sits in a browser; the rest is the person's id
CONSENT = "consent"  # what a record keeps beside the match: {seat: {"training": true, …}} of the people in it


def people(episode: Episode) -> set[str]:
    """The seats in which people sat: by the player's name, or because the record tells of their consent."""
    named = {seat for seat, name in episode.players.items() if name == HUMAN or name.startswith(PERSON)}
    return named | _told(episode).keys()


def trainable(episode: Episode) -> bool:
    """Whether everybody who took part in person has agreed to training; without people there is nothing to ask."""
    told = _told(episode)
    return all(isinstance(own := told.get(seat), Mapping) and own.get("training") is True for seat in people(episode))


def _told(episode: Episode) -> Mapping[str, Any]:
    told = episode.extra.get(CONSENT)
    return told if isinstance(told, Mapping) else {}
