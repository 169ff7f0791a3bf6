"""Deletes a person from a table's files; the only operation that rewrites stored lines.

It removes their events, links and outer ids, and every match in which they sat, with everybody's words. Their seatings
are kept without the name, for the numbering of later matches depends on them.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..data.consent import PERSON
from ..data.store import EpisodeStore
from ..system.files import InputError, read_jsonl, read_lines, replacing
from . import events
from .lobby import FILE as SEATINGS
from .persons import Person, Persons
from .played import folders

NOBODY = f"{PERSON}forgotten"
Change: TypeAlias = Callable[[Any], Sequence[Any] | None]  # a line -> the lines to replace it; None keeps it


def forget(table: Path, person: str) -> str:
    """Deletes a person and returns what was removed, as text. InputError if nobody has that id."""
    persons, name = Persons(table), f"{PERSON}{person}"
    if Person(person) not in persons:
        ids = "persons.csv and matches.csv of task=people have the ids"  # who only played is in the second alone
        raise InputError(f"nobody with the id {person} has come to {table}: {ids}")
    gone = played = 0
    for part in folders(table):
        gone += _rewrite(part / events.FILE, lambda row: () if row["person"] == person else None)
        played += _forget_matches(part, name)
    persons.forget(Person(person))
    return f"{gone} events and {played} matches were taken out"


def _forget_matches(part: Path, name: str) -> int:
    """Removes the matches of the player `name` from a part's folder; returns how many were stored."""
    seatings = part / SEATINGS
    matches = {row["match"] for row in _rows(seatings) if name in row.get("players", {}).values()}
    shards = EpisodeStore(part, shard=None).shards()
    played = sum(_rewrite(each, lambda row: () if name in row["players"].values() else None) for each in shards)
    for path in (*part.glob("open-*.jsonl"), part / "failures.jsonl"):
        _rewrite(path, lambda row: () if row["match"] in matches else None)
    _rewrite(seatings, lambda row: _unnamed(row, name) if name in row.get("players", {}).values() else None)
    return played


def _unnamed(row: Any, name: str) -> list[Any]:
    """A seating without the name, and a line that gives its match up, so that it is not taken for an open one."""
    players = {seat: NOBODY if player == name else player for seat, player in row["players"].items()}
    return [{**row, "players": players}, {"match": row["match"], "over": "forgotten"}]


def _rows(path: Path) -> Iterator[Any]:
    if path.exists():
        yield from read_jsonl(path)


def _rewrite(path: Path, change: Change) -> int:
    """Rewrites a file atomically, keeping its mode; returns the number of changed lines. If none changes, the file is
    left alone."""
    count = sum(change(row) is not None for row in _rows(path))
    if count:
        with replacing(path) as file:
            Path(file.name).chmod(stat.S_IMODE(path.stat().st_mode))
            for _, line in read_lines(path):
                instead = change(json.loads(line))
                file.writelines([line] if instead is None else (json.dumps(row) + "\n" for row in instead))
    return count
