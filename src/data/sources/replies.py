"""Demonstrations from the real replies in a game's own scenarios."""

from __future__ import annotations

from collections.abc import Iterator

from ...games.base import Game, Message
from ...system.files import InputError
from ..sample import Demonstration


class Replies:
    """A data source for games of one request whose scenarios hold a real `reply` (`prompts`, `tales`).

    A demonstration has its scenario's id, by which SPIN pairs it, and the game's view. It also has the scenario's
    `logprob` of the reply under its source, if known.
    """

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats of a split; InputError for a game whose scenarios hold no reply."""
        for scenario in game.scenarios(split):
            reply = scenario.data.get("reply")
            if not isinstance(reply, str):
                raise InputError(
                    f"data=replies: the scenarios of {game.name} hold no real reply: use it with game=prompts or "
                    f"game=tales"
                )
            view = game.match(scenario, 0).start()[0].messages
            weights = (*(0.0 for _ in view), 1.0)
            yield Demonstration(
                scenario.id,
                (*view, Message("assistant", reply)),
                weights,
                scenario.data.get("logprob"),
                scenario.cluster,
            )
