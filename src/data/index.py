"""Index of a store: the location of each match by id, in a temporary database on disk, so that millions of matches take
no memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[str, int, int, int]  # match id, index of its shard, line number, byte offset


class Line(NamedTuple):
    """One complete line of a shard."""

    path: Path
    number: int
    text: bytes


class Index:
    """The complete lines of `shards`, by match id. Of several lines with one id the first counts; `duplicates` is the
    number of the others.

    It reflects `places` at construction; matches appended later are missing.
    """

    def __init__(self, shards: Sequence[Path], places: Iterable[Place]) -> None:
        self._shards = shards
        self._known = sqlite3.connect("")  # an unnamed temporary file, removed with the connection
        self._known.execute("PRAGMA journal_mode = OFF")
        self._known.execute(
            "CREATE TABLE line (id TEXT PRIMARY KEY, shard INTEGER, number INTEGER, start INTEGER) WITHOUT ROWID"
        )
        self._count = self.duplicates = 0
        for place in places:
            new = self._known.execute("INSERT OR IGNORE INTO line VALUES (?, ?, ?, ?)", place).rowcount
            self._count, self.duplicates = self._count + new, self.duplicates + 1 - new

    def __len__(self) -> int:
        return self._count

    def __contains__(self, match: object) -> bool:
        return self._known.execute("SELECT 1 FROM line WHERE id = ?", (match,)).fetchone() is not None

    def __iter__(self) -> Iterator[Line]:
        """All lines, sorted by match id (by code points, as Python sorts)."""
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in self._shards]
            for shard, number, start in self._known.execute("SELECT shard, number, start FROM line ORDER BY id"):
                files[shard].seek(start)
                yield Line(self._shards[shard], number, files[shard].readline())

    def __getitem__(self, match: str) -> Line:
        """The line of one match; KeyError if there is none."""
        found = self._known.execute("SELECT shard, number, start FROM line WHERE id = ?", (match,)).fetchone()
        if found is None:
            raise KeyError(match)
        shard, number, start = found
        with open(self._shards[shard], "rb") as file:
            file.seek(start)
            return Line(self._shards[shard], number, file.readline())
