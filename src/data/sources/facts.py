"""What goes with the words of a game, as short chats to imitate: what a pretrained model would know before it plays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...games.base import Game, Message
from ...system.files import InputError
from ..sample import Demonstration

SPLITS = ("train", "validation", "test")


@runtime_checkable
class Knowing(Protocol):
    """A game that can say what goes with its words, as the lexicon of Taboo can."""

    def associations(self, split: str, rows: int) -> Iterator[tuple[str, Sequence[Message]]]:
        """`rows` short chats for each word of a split, each ending in an assistant's message, with the kind of each."""


@dataclass(frozen=True)
class Associations:
    """A data source: `rows` chats on every word of the game, held-out words included. They are facts, not turns of a
    match: held-out words are known, as they are to a pretrained model, and still never played before they are evaluated
    on.

    Only the answers are imitated. All of them are train data: there is nothing to validate on.
    """

    rows: int = 12

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats, word after word, with ids such as `associations/name/test/000042`. InputError for a game without
        associations."""
        if not isinstance(game, Knowing):
            raise InputError(
                f"the game {game.name} has no associations: use data=associations with game=taboo and words=lexicon"
            )
        if split != "train":
            return
        for each in SPLITS:
            for number, (kind, messages) in enumerate(game.associations(each, self.rows)):
                weights = tuple(float(message.role == "assistant") for message in messages)
                yield Demonstration(f"associations/{kind}/{each}/{number:06d}", tuple(messages), weights)
