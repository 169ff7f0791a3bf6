"""Stores episodes in shards `<folder>/<rank>.jsonl`, one line of JSON each, only ever appended."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from io import FileIO
from pathlib import Path

from ..system.files import parse_line, sync_folder
from .episode import SCHEMA, Episode, written
from .index import Index, Line, Place
from .seal import verify

SYNC_S = 5.0  # seconds between syncs: the play that a power failure can lose; a killed process loses nothing
_HEAD = re.compile(rb'\{"schema":[1-%d],"id":("(?:[^"\\]|\\.)*"),"game":.*\}\n\Z' % SCHEMA)


class EpisodeStore:
    """The episodes of one stage. A writer owns one shard; readers read all.

    Opening with a `shard` repairs it: a last line torn by a kill is cut off (`torn` counts it), so its match is owed
    (to be played) again. With `shard=None` the store is read-only; InputError names a shard of a finished stage that
    has changed. Readers skip the torn tail of other shards, and further lines with the same match id (such as a copied
    shard): the first counts, `duplicates` is the number of the others.
    """

    def __init__(self, folder: str | Path, shard: int | None = 0) -> None:
        self.folder = Path(folder)
        self.torn = 0
        self.duplicates = 0
        self._file: FileIO | None = None
        if shard is None:
            verify(self.folder)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._path = self.folder / f"{shard}.jsonl"
            self.torn = repair(self._path)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - the store closes it
            self._size = self._path.stat().st_size
            self._synced = time.monotonic()
            sync_folder(self.folder)

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, episode: Episode) -> None:
        """Stores one episode. ValueError if it is not plain JSON; after an OSError (a full disk) the shard is intact or
        repairable."""
        if self._file is None:
            raise ValueError(f"the episode store {self.folder} is closed or was opened for reading only")
        line = encode(episode)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            if time.monotonic() - self._synced > SYNC_S:
                self._sync()
        except OSError as error:
            self._give_up(error)
        self._size += len(line)

    def close(self) -> None:
        """Syncs and closes the shard. A closed store can still be read."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None

    def ids(self) -> set[str]:
        """The ids of all stored matches. ValueError names the file and line of an invalid episode."""
        return {match for _, _, _, match in self._lines(self.shards())}

    def read(self, ordered: bool = False) -> Iterator[Episode]:
        """All episodes, one at a time; sorted by match id if `ordered`, else by shard in the order of play."""
        if ordered:
            yield from map(parsed, self.index())
            return
        seen: set[str] = set()
        self.duplicates = 0
        for path, number, line, match in self._lines(self.shards()):
            if match in seen:
                self.duplicates += 1
                continue
            seen.add(match)
            yield parse_line(line, path, number, Episode.from_json)

    def index(self) -> Index:
        """An index of all matches stored so far; `duplicates` counts repeated ones. ValueError as in `ids`."""
        index = Index(shards := self.shards(), self._places(shards))
        self.duplicates = index.duplicates
        return index

    def _places(self, shards: Sequence[Path]) -> Iterator[Place]:
        offsets = dict.fromkeys(shards, 0)
        numbers = {path: rank for rank, path in enumerate(shards)}
        for path, number, line, match in self._lines(shards):
            yield match, numbers[path], number, offsets[path]
            offsets[path] += len(line)

    def shards(self) -> list[Path]:
        """The shard files, by rank."""
        return sorted(
            (path for path in self.folder.glob("*.jsonl") if path.stem.isdecimal()), key=lambda path: int(path.stem)
        )

    def _lines(self, shards: Sequence[Path]) -> Iterator[tuple[Path, int, bytes, str]]:
        """Every complete line as (shard, line number, line, match id)."""
        for path in shards:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield path, number, line, _match_id(line, path, number)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _give_up(self, error: OSError) -> None:
        assert self._file is not None
        with suppress(OSError):  # truncating works on a full disk; if it fails, the next opening repairs
            self._file.truncate(self._size)
        with suppress(OSError):
            self._file.close()
        self._file = None
        text = (
            f"cannot append to the episodes ({error.strerror}); the matches before are stored: make room, then resume"
        )
        raise OSError(error.errno, text, str(self._path)) from error


class Matches(Collection[Episode]):
    """The stored matches of one stage, sorted by match id, or one of them by its id.

    Every iteration reads them from disk, one at a time, so they need not fit into memory. Contains the matches stored
    at first use.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @cached_property
    def _index(self) -> Index:
        return EpisodeStore(self.folder, shard=None).index()

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Episode]:
        return map(parsed, self._index)

    def __contains__(self, match: object) -> bool:
        return match in self._index

    def __getitem__(self, match: str) -> Episode:
        return parsed(self._index[match])


def parsed(line: Line) -> Episode:
    """Parses the episode in a line. InputError names file and line."""
    return parse_line(line.text, line.path, line.number, Episode.from_json)


def encode(episode: Episode) -> bytes:
    """The line of an episode: the JSON of `to_json`."""
    try:
        return json.dumps(written(episode), separators=(",", ":"), allow_nan=False, default=written).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise ValueError(f"match {episode.id} cannot be stored as JSON: {error}") from error


def _match_id(line: bytes, path: Path, number: int) -> str:
    """The match id at the head of a line, without parsing all its token ids."""
    head = _HEAD.match(line)
    if head is not None:
        return str(json.loads(head[1]))
    return parse_line(line, path, number, Episode.from_json).id


def repair(path: Path) -> int:
    """Cuts off a last line without newline; returns the number (0 or 1) of torn lines."""
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        end = start = file.seek(0, os.SEEK_END)
        while start > 0:
            step = min(start, 1 << 16)
            file.seek(start - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                start = start - step + newline + 1
                break
            start -= step
        if start < end:
            file.truncate(start)
            os.fsync(file.fileno())
    return int(start < end)
