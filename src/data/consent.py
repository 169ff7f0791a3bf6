"""Consent: whether matches with people may be used for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .episode import Episode

HUMAN = "human"  # the player's name for a person at the terminal
PERSON = "person:"  # prefix of the name for a person in a browser; the rest is the person's id
CONSENT = "consent"  # key in an episode's extra fields: {seat: {"training": true, …}} for the people in it


def people(episode: Episode) -> set[str]:
    """The seats of people: by the player's name, or because the record has their consent."""
    named = {seat for seat, name in episode.players.items() if name == HUMAN or name.startswith(PERSON)}
    return named | _told(episode).keys()


def trainable(episode: Episode) -> bool:
    """Whether all people in the match agreed to training; True without people."""
    told = _told(episode)
    return all(isinstance(own := told.get(seat), Mapping) and own.get("training") is True for seat in people(episode))


def _told(episode: Episode) -> Mapping[str, Any]:
    told = episode.extra.get(CONSENT)
    return told if isinstance(told, Mapping) else {}
