"""Renders all prompts from files before the first request, so that no bad row ends a run in the middle."""

from __future__ import annotations

from ..games.base import Game
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..system.files import InputError


def check(game: Game, snapshot: Snapshot, who: str = "") -> None:
    """Renders every prompt that `game` read from a file (its `given`, if any) with the template of `snapshot`.

    InputError names file and line of the first refused prompt, and their number; it begins with `who`. Served models
    are not checked.
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
        raise InputError(f"{who}{refused[0]}{rest}. Correct these chats or leave them out")
