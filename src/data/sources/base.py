"""Interfaces of data sources (`data=`): demonstrations, samples with rewards, imported logs and recorded matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ...games.base import Game, Message
from ..episode import Episode
from ..sample import Demonstration, Sample
from ..store import Matches


class Source(Protocol):
    """A source of chats to imitate. A source that reads files lists them in `files` (name -> path); their digests are
    inputs of the stages."""

    def demonstrations(self, game: Game, split: str) -> Iterable[Demonstration]:
        """The chats of a split of the game."""


@runtime_checkable
class Rewarded(Protocol):
    """A data source whose texts have rewards."""

    def samples(self, render: Callable[[Demonstration], Sample]) -> list[Sample]:
        """The texts as samples; `render` tokenizes a chat."""


@runtime_checkable
class Imported(Protocol):
    """A data source of foreign logs of matches, from which credit selects."""

    def matches(self, player: str) -> Iterable[tuple[Episode, Mapping[str, Sequence[Message]]]]:
        """The matches, with `player` in every seat, and the view of each seat."""


@runtime_checkable
class Recorded(Protocol):
    """A data source of matches stored by other runs, from which credit selects."""

    def recorded(self, game: Game, player: str) -> Matches:
        """The matches, with `player` in every seat to learn from. `game` can replay them."""
