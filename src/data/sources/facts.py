"""Facts about the words of a game as short chats to imitate, in place of a pretrained model's knowledge."""

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
    """A game that knows associations of its words, such as the lexicon of Taboo."""

    def associations(self, split: str, rows: int) -> Iterator[tuple[str, Sequence[Message]]]:
        """(kind, chat) pairs: `rows` short chats for each word of a split, each ending with an assistant's message."""


@dataclass(frozen=True)
class Associations:
    """A data source: `rows` chats on every word of the game, including held-out words. They are facts, not turns of a
    match: like a pretrained model, the policy knows held-out words, but has never played them before evaluation.

    Only the answers are imitated. All chats are train data; there is no validation split.
    """

    rows: int = 12

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats, word by word, with ids such as `associations/name/test/000042`. InputError for a game without
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
