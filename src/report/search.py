"""Search for matches across runs, by outcome and metric.

Each run has an SQLite file, made from its episode stores and extended as they grow. It is only a copy: it is made anew
if a store has changed, or if the file is damaged or of another version. Every query uses an index, so a page takes as
long among 100,000 matches as among 1,000. Matches with people are left out.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from heapq import merge
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..data.consent import people
from ..data.episode import Episode
from ..system.files import InputError, parse_line
from ..system.printing import printable
from .estimates import values
from .traits import Traits, traits

VERSION = 1  # of the tables
TABLES = f"""
CREATE TABLE shard (id INTEGER PRIMARY KEY, path TEXT UNIQUE, inode INTEGER, done INTEGER, tail BLOB);
CREATE TABLE word (id INTEGER PRIMARY KEY, kind TEXT, text TEXT, UNIQUE (kind, text));
CREATE TABLE match (id INTEGER PRIMARY KEY, match TEXT UNIQUE, scenario TEXT, outcome INTEGER, blamed INTEGER,
  retried INTEGER, forked INTEGER, shard INTEGER, start INTEGER);
CREATE INDEX match_by_outcome ON match (outcome, id);
CREATE TABLE figure (metric INTEGER, value REAL, match INTEGER, outcome INTEGER, PRIMARY KEY (metric, value, match))
  WITHOUT ROWID;
CREATE INDEX figure_by_outcome ON figure (metric, outcome, value, match);
PRAGMA user_version = {VERSION};
"""
STAGES = ("play", "eval")  # folders of an iteration in which its matches lie
LONGEST = 1 << 24  # bytes of a line; the rest of a shard after a longer one is ignored
TAIL = 64  # last bytes read of a shard, compared later to see whether it has changed
WORDS = 200  # most outcomes, and metrics, listed for a run
ENDLESS = 2**62  # above every match's number


@dataclass(frozen=True, slots=True)
class Query:
    """A search by outcome ("": any) and by a metric between `least` and `most` ("": no metric). Results are sorted by
    falling value of the metric; without a metric by run, newest first."""

    outcome: str = ""
    metric: str = ""
    least: float = -math.inf
    most: float = math.inf


class Place(NamedTuple):
    """The sort key of a match in the results: falling value, then the order of the runs, then newest first."""

    value: float
    run: str
    number: int


@dataclass(frozen=True, slots=True)
class Found:
    """A match in the results. The value in `place` is that of the metric, 0 without one."""

    place: Place
    stage: str
    traits: Traits


class Search:
    """Searches several runs, given as key -> directory. The index of a run is `folder`/KEY.sqlite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refresh(self, runs: Mapping[str, Path], seconds: float) -> int:
        """Indexes new matches of the runs for at most `seconds`. Returns the bytes still unread."""
        until = time.monotonic() + seconds
        return sum(self._index(key, run).refresh(until) for key, run in runs.items())

    def find(self, runs: Mapping[str, Path], query: Query, after: Place | None, count: int) -> list[Found]:
        """The first `count` matches after the place `after`."""
        keys = list(runs)
        at = keys.index(after.run) if after is not None and after.run in runs else -1
        pages = []
        for place, (key, run) in enumerate(runs.items()):
            before = math.inf, ENDLESS
            if after is not None:
                before = after.value, after.number if place == at else 0 if place < at else ENDLESS
            pages.append(self._index(key, run).find(key, query, before, count))
        order = {key: place for place, key in enumerate(keys)}
        ranked = merge(*pages, key=lambda each: (-each.place.value, order[each.place.run], -each.place.number))
        return list(islice(ranked if query.metric else chain(*pages), count))

    def words(self, runs: Mapping[str, Path], kind: str) -> list[str]:
        """The outcomes (`kind` is outcome), or the metrics (metric), of the matches."""
        return sorted({word for key, run in runs.items() for word in self._index(key, run).words(kind)})

    def episode(self, key: str, run: Path, match: str) -> Episode:
        """The match of this id in a run. KeyError where it has none."""
        return self._index(key, run).episode(match)

    def _index(self, key: str, run: Path) -> RunIndex:
        return RunIndex(run, self.folder / f"{key}.sqlite")


class RunIndex:
    """The matches of one run, in the SQLite file `file`."""

    def __init__(self, run: Path, file: Path) -> None:
        self.run, self.file = run, file

    def refresh(self, until: float) -> int:
        """Indexes new matches until `time.monotonic()` reaches `until`. Returns the bytes still unread."""
        shards = {path.relative_to(self.run).as_posix(): path.stat() for path in self._shards()}
        with self._open() as known:
            read = known.execute("SELECT path, inode, done, tail FROM shard").fetchall()
        if any(path not in shards or not self._same(path, shards[path], *rest) for path, *rest in read):
            self.file.unlink()
        with self._open() as known:
            words = {(kind, text): number for number, kind, text in known.execute("SELECT * FROM word")}
            return sum(self._read(known, words, path, state, until) for path, state in shards.items())

    def find(self, key: str, query: Query, before: tuple[float, int], count: int) -> Iterator[Found]:
        """The first `count` matches that sort below (value, number)."""
        with self._open() as known:
            rows = [] if (chosen := _chosen(known, query, before, count)) is None else known.execute(*chosen).fetchall()
        for value, number, path, match, scenario, outcome, *flags in rows:
            found = Traits(match, scenario, outcome, *map(bool, flags))
            yield Found(Place(value, key, number), path.rpartition("/")[0], found)

    def words(self, kind: str) -> list[str]:
        """At most `WORDS` outcomes, or metrics."""
        with self._open() as known:
            rows = known.execute("SELECT text FROM word WHERE kind = ? ORDER BY id LIMIT ?", (kind, WORDS))
            return [text for (text,) in rows]

    def episode(self, match: str) -> Episode:
        """The match of this id, read from its store. KeyError where there is none, or none any more."""
        place = "SELECT path, start FROM match JOIN shard ON shard.id = match.shard WHERE match = ?"
        with self._open() as known:
            row = known.execute(place, (match,)).fetchone()
        if row is None or (path := self.run / row[0]) not in self._shards():
            raise KeyError(match)
        with open(path, "rb") as file:
            file.seek(row[1])
            line = file.readline(LONGEST)
        with suppress(InputError):
            episode, own, _ = parse_line(line, path, 0, _told)
            if own.match == match and not people(episode):
                return episode
        raise KeyError(match)

    def _shards(self) -> list[Path]:
        """The shards of matches. Skips links that lead out of the run, which may come from anybody."""
        root = self.run.resolve()
        paths = (path for stage in STAGES for path in self.run.glob(f"iter_*/{stage}/**/*.jsonl"))
        whole = (path for path in paths if path.stem.isdecimal() and path.is_file())
        return sorted(path for path in whole if path.resolve().is_relative_to(root))

    def _same(self, path: str, state: os.stat_result, inode: int, done: int, tail: bytes) -> bool:
        """Whether the part of a shard that was indexed is unchanged."""
        if state.st_ino != inode or state.st_size < done:
            return False
        with open(self.run / path, "rb") as file:
            file.seek(done - len(tail))
            return file.read(len(tail)) == tail

    def _read(
        self,
        known: sqlite3.Connection,
        words: dict[tuple[str, str], int],
        path: str,
        state: os.stat_result,
        until: float,
    ) -> int:
        """Indexes the complete new lines of a shard. Returns the bytes for which there was no time."""
        new = "INSERT OR IGNORE INTO shard (path, inode, done, tail) VALUES (?, ?, 0, x'')"
        known.execute(new, (path, state.st_ino))
        shard, at = known.execute("SELECT id, done FROM shard WHERE path = ?", (path,)).fetchone()
        if state.st_size <= at:
            return 0
        with open(self.run / path, "rb") as file:
            file.seek(at)
            while in_time := time.monotonic() < until:
                if not (line := file.readline(LONGEST)).endswith(b"\n"):
                    break
                _add(known, words, shard, at, line)
                at += len(line)
            file.seek(max(at - TAIL, 0))
            tail = file.read(min(TAIL, at))
        known.execute("UPDATE shard SET done = ?, tail = ? WHERE id = ?", (at, tail, shard))
        return 0 if in_time else max(state.st_size - at, 0)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Opens the database in one transaction. Makes it anew if it is missing or unusable."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = _connected(self.file)
        except sqlite3.DatabaseError:
            self.file.unlink()
            known = _connected(self.file)
        try:
            with known:
                yield known
        except sqlite3.DatabaseError:  # damaged further in
            self.file.unlink(missing_ok=True)
            raise
        finally:
            known.close()


def _connected(file: Path) -> sqlite3.Connection:
    known = sqlite3.connect(file)
    try:
        known.execute("PRAGMA synchronous = OFF")  # what is lost can be made again
        version = known.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not known.execute("SELECT * FROM sqlite_master").fetchone():
            known.executescript(TABLES)
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"tables of version {version}")
    except sqlite3.DatabaseError:
        known.close()
        raise
    return known


def _chosen(
    known: sqlite3.Connection, query: Query, before: tuple[float, int], count: int
) -> tuple[str, Sequence[Any]] | None:
    """The SQL query and its parameters; None if no match has this outcome or metric. An index holds the entries in the
    order of the results, so the query reads at most `count` of them."""
    asked = {kind: word for kind, word in (("outcome", query.outcome), ("metric", query.metric)) if word}
    numbers = [
        known.execute("SELECT id FROM word WHERE kind = ? AND text = ?", pair).fetchone() for pair in asked.items()
    ]
    if None in numbers:
        return None
    where = [f"{kind} = ?" for kind in asked]
    given: list[Any] = [number for (number,) in numbers]
    if query.metric:
        chosen, order = "SELECT value, match AS number FROM figure", "value DESC, number DESC"
        where += ["value >= ?", "(value, match) < (?, ?)"]
        given += [query.least, *min(before, (query.most, ENDLESS))]
    else:
        chosen, order = "SELECT 0.0 AS value, id AS number FROM match", "number DESC"
        where += ["id < ?"]
        given += [before[1]]
    return (
        "SELECT value, number, path, match.match, scenario, text, blamed, retried, forked "
        f"FROM ({chosen} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?) JOIN match ON match.id = number "
        f"JOIN word ON word.id = match.outcome JOIN shard ON shard.id = match.shard ORDER BY {order}",
        [*given, count],
    )


def _told(data: Any) -> tuple[Episode, Traits, list[tuple[str, float]]]:
    """A stored match, its traits and its metrics."""
    episode = Episode.from_json(data)
    figures = [(printable(name), value) for name, value in values(episode).items() if math.isfinite(value)]
    return episode, traits(episode), figures


def _add(known: sqlite3.Connection, words: dict[tuple[str, str], int], shard: int, start: int, line: bytes) -> None:
    """Indexes the match in a line. Skips invalid lines, duplicates and matches with people."""
    try:
        episode, own, figures = parse_line(line, "", 0, _told)
    except InputError:
        return
    if people(episode):
        return
    match, scenario, outcome, *flags = astuple(own)
    told = _word(known, words, "outcome", outcome)
    row = (match, scenario, told, *flags, shard, start)
    number = known.execute("INSERT OR IGNORE INTO match VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    if number.rowcount:
        rows = [(_word(known, words, "metric", name), value, number.lastrowid, told) for name, value in figures]
        known.executemany("INSERT OR IGNORE INTO figure VALUES (?, ?, ?, ?)", rows)


def _word(known: sqlite3.Connection, words: dict[tuple[str, str], int], kind: str, text: str) -> int:
    """The id of an outcome or metric in the table `word`."""
    if (kind, text) not in words:
        added = known.execute("INSERT INTO word (kind, text) VALUES (?, ?)", (kind, text))
        words[kind, text] = int(added.lastrowid or 0)
    return words[kind, text]
