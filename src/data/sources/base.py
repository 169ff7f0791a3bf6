"""What the option `data=` builds: a source of demonstrations, and of samples where its texts have rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ...games.base import Game, Message
from ..episode import Episode
from ..sample import Demonstration, Sample
from ..store import Matches


class Source(Protocol):
    """A source of chats to imitate. One that reads files names them in `files` (name -> path); their digests are inputs
    of the stages."""

    def demonstrations(self, game: Game, split: str) -> Iterable[Demonstration]:
        """The chats of a split of the game."""


@runtime_checkable
class Rewarded(Protocol):
    """A data source whose texts have rewards."""

    def samples(self, render: Callable[[Demonstration], Sample]) -> list[Sample]:
        """The texts as samples; `render` makes tokens of a chat."""


@runtime_checkable
class Imported(Protocol):
    """A data source whose chats are logs of matches that were played elsewhere, for credit to choose from."""

    def matches(self, player: str) -> Iterable[tuple[Episode, Mapping[str, Sequence[Message]]]]:
        """The matches, as if `player` had played every seat, and the view of each seat."""


@runtime_checkable
class Recorded(Protocol):
    """A data source of matches that other runs have stored, for credit to choose from."""

    def recorded(self, game: Game, player: str) -> Matches:
        """The matches, in which `player` sits wherever somebody is learned from. `game` can replay them."""
