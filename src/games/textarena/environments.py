"""Facts on TextArena's environments: seats, rewards, requirements. The table is environments.txt."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...system.files import InputError


@dataclass(frozen=True, slots=True)
class Environment:
    """A family of environments: all ids with the same word before "-v0".

    players   possible numbers of seats; empty: unknown
    returns   least and greatest reward; zero_sum: whether rewards of a match add up to zero
    needs     requirements besides TextArena: python3.12, a module, nltk:corpora/words
    refused   why it cannot be played at all
    """

    players: tuple[int, ...] = ()
    returns: tuple[float, float] = (-1.0, 1.0)
    zero_sum: bool = False
    needs: tuple[str, ...] = ()
    refused: str = ""

    def lacks(self) -> list[str]:
        """The missing requirements, with how to install them."""
        return [told for need in self.needs if (told := _missing(need))]

    def check(self, env: str) -> None:
        """InputError if it cannot be played here."""
        if self.refused:
            raise InputError(f"game.env={env} cannot be played: {self.refused}")
        if lacks := self.lacks():
            raise InputError(f"game.env={env} needs {'; '.join(lacks)}")

    def seats(self, env: str, players: int | None) -> int:
        """The number of seats: `players`, or the fewest. InputError for a number that the environment does not
        support."""
        if players is None and self.players:
            return self.players[0]
        if players is None or players < 1 or (self.players and players not in self.players):
            taken = ", ".join(map(str, self.players)) or "a number that this version of parley does not know: say it"
            raise InputError(f"game.players is {players}: {env} takes {taken}")
        return players


def known(env: str) -> Environment:
    """The facts on the environment with this id."""
    return table().get(env.partition("-v")[0], Environment())


@cache
def table() -> dict[str, Environment]:
    """All families by name."""
    text = (Path(__file__).parent / "environments.txt").read_text(encoding="utf-8")
    return dict(_row(line) for line in text.splitlines() if line and not line.startswith("#"))


def _row(line: str) -> tuple[str, Environment]:
    fields, _, refused = line.partition(" ! ")
    name, players, low, high, zero, *needs = fields.split()
    return name, Environment(_numbers(players), (float(low), float(high)), zero == "zero", tuple(needs), refused)


def _numbers(text: str) -> tuple[int, ...]:
    """2-4 as (2, 3, 4); 4,6 as (4, 6); ? as none."""
    if text == "?":
        return ()
    if "-" in text:
        first, last = map(int, text.split("-"))
        return tuple(range(first, last + 1))
    return tuple(map(int, text.split(",")))


def _missing(need: str) -> str:
    """A missing requirement and how to install it; "" if it is installed."""
    kind, _, name = need.partition(":")
    if kind.startswith("python"):
        wanted = tuple(map(int, kind.removeprefix("python").split(".")))
        return "" if sys.version_info[:2] >= wanted else f"Python {kind.removeprefix('python')} or newer"
    if kind != "nltk":
        return "" if importlib.util.find_spec(kind) else f"the package {kind}: pip install {kind}"
    return "" if _nltk(name) else f"NLTK's {name}: python -m nltk.downloader {name.rpartition('/')[2]}"


def _nltk(name: str) -> bool:
    """Whether NLTK's data has `name`. Checks the folders, because NLTK itself would download it."""
    folders = [Path(each) for each in os.environ.get("NLTK_DATA", "").split(os.pathsep) if each]
    folders += [Path.home() / "nltk_data", Path(sys.prefix) / "nltk_data", Path("/usr/share/nltk_data")]
    return any((folder / name).exists() or (folder / f"{name}.zip").exists() for folder in folders)
