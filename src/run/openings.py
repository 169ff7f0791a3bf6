"""Prompts that a file gives are rendered before the first request, so that no bad row ends a run in the middle."""

from __future__ import annotations

from ..games.base import Game
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..system.files import InputError


def check(game: Game, snapshot: Snapshot, who: str = "") -> None:
    """Renders every prompt that `game` has from a file (its `given`, if it has one) with the template of `snapshot`.

    InputError names the first that the template refuses, by file and line, and says how many there are; it begins with
    `who`. A model whose server renders is not asked.
    """
    given = getattr(game, "given", None)
    if given is None or snapshot.served is not None:
        return
    renderer = Renderer.load(snapshot.base or snapshot.path)
    refused: list[str] = []
    for place, messages in given():
        try:
            renderer.prompt(messages)
        except InputError as error:
            refused.append(f"{place}: {error}")
    if refused:
        rest = f" ({len(refused) - 1} more chats are refused)" if len(refused) > 1 else ""
        raise InputError(f"{who}{refused[0]}{rest}. Mend these chats or leave them out")
