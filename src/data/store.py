"""Where episodes live: shards `<folder>/<rank>.jsonl`, one line of JSON each, appended whole and never rewritten."""

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

SYNC_S = 5.0  # at most this many seconds of play are lost with the machine's power; with the process, nothing is
_HEAD = re.compile(rb'\{"schema":[1-%d],"id":("(?:[^"\\]|\\.)*"),"game":.*\}\n\Z' % SCHEMA)


class EpisodeStore:
    """The episodes of one stage. A writer owns one shard; whoever reads, reads them all.

    Opening with a `shard` repairs it: a last line that was torn by a kill is cut off (`torn` counts it), so its match
    is owed again. With `shard=None` the store is read only; InputError names a shard of a finished stage that is no
    longer what it was. Readers skip the torn tail of a shard that they do not own, and a second line with the same
    match id (a shard that was copied, say): the first stands, `duplicates` counts.
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
        """Stores one episode. ValueError for one that is not plain JSON; OSError (a full disk) leaves the shard whole
        or repairable."""
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
        """Makes everything durable. A closed store can still be read."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None

    def ids(self) -> set[str]:
        """The ids of all stored matches. ValueError names the file and line of what is no episode of this schema."""
        return {match for _, _, _, match in self._lines(self.shards())}

    def read(self, ordered: bool = False) -> Iterator[Episode]:
        """All episodes, one at a time; sorted by match id if `ordered` (shards otherwise, each in the order of
        play)."""
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
        """Where every stored match lies, as of now; `duplicates` counts what is stored twice. ValueError as of
        `ids`."""
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
        """Every whole line as (shard, line number, line, match id)."""
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
        with suppress(OSError):  # a full disk can still cut; where it cannot, the next opening repairs
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

    It can be gone through again and again: every time they are read from the disk, one at a time, so that there may be
    more of them than memory has room for. It knows what was stored when it was first asked.
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
    """The episode in a line. InputError names file and line."""
    return parse_line(line.text, line.path, line.number, Episode.from_json)


def encode(episode: Episode) -> bytes:
    """The line of an episode: the JSON of `to_json`."""
    try:
        return json.dumps(written(episode), separators=(",", ":"), allow_nan=False, default=written).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise ValueError(f"match {episode.id} cannot be stored as JSON: {error}") from error


def _match_id(line: bytes, path: Path, number: int) -> str:
    """The match id at the head of a line, without the cost of reading all its token ids."""
    head = _HEAD.match(line)
    if head is not None:
        return str(json.loads(head[1]))
    return parse_line(line, path, number, Episode.from_json).id


def repair(path: Path) -> int:
    """Cuts a last line that lacks its newline off; returns how many (0 or 1) were torn."""
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
