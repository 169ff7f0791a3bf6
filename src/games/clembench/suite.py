"""Several games of a clembench checkout as one game: those of a benchmark version, or named ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...system.files import InputError
from ..suite import Suite
from .game import Clembench
from .instances import Listed, listed


class Benchmark(Suite):
    """The game. Members are the text games of `path` that match `select`; `only` and `without` name games.

    select   keys of a clemgame.json with their required value, or a member of their list: {benchmark: 2.0}
    without  excluded games, such as ones held out of training and evaluated in another run
    unseen   games in the test split only: held out of training, evaluated in the same run
    history  the games that put replies into a seat's first view
    limit    scenarios of each member per split; None for all
    options  arguments of `Clembench` for all members; roles: seats by game, if some roles never speak

    InputError for an empty selection, an unknown game, and missing requirements of a game.
    """

    name = "clembench"

    def __init__(
        self,
        path: str,
        select: Mapping[str, Any] | None = None,
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
        history: Sequence[str] = ("privateshared",),
        roles: Mapping[str, Sequence[str]] | None = None,
        limit: int | None = None,
        unseen: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        games = listed(path)
        if odd := sorted({*(only or ()), *without, *unseen} - games.keys()):
            raise InputError(f"{', '.join(odd)}: no such game in {path}; there is {', '.join(sorted(games))}")
        chosen = [
            name
            for name, entry in games.items()
            if entry.image == "none"
            and name not in without
            and _selected(entry, select or {})
            and name in (only or games)
        ]
        if not chosen:
            raise InputError(f"no text game of {path} is {dict(select or {})}: choose another version, or name games")
        shared = dict(options or {})
        members = {
            name: Clembench(name, path, roles=(roles or {}).get(name), history=name in history, **shared)
            for name in chosen
        }
        self.files = {f"{name}.{key}": file for name, game in members.items() for key, file in game.files.items()}
        super().__init__(members, limit, unseen)


def _selected(entry: Listed, select: Mapping[str, Any]) -> bool:
    """Whether a game's keys equal, or contain in a list, every value of `select`; numbers are compared as text."""
    return all(str(value) in _texts(entry.plain.get(key)) for key, value in select.items())


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
