"""Search engines on this machine: a corpus in SQLite's full-text index, a scenario's own documents, a memo of answers.

A model's text is never passed to the index as a query: its words are extracted and quoted. Documents are ranked by BM25
with double weight on the title; ties are broken by their order in the file.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from ...system.files import InputError, digest, read_jsonl
from ..base import Json, Request

Document: TypeAlias = tuple[str, str]  # title, text
WORDS = 64  # maximum of a query
LONGEST = 64  # maximum characters of a word
COMMON = 0.1  # share of documents above which a word is ignored as common (in a corpus of more than a thousand)
FORMAT = 1  # of an index file
_WORD = re.compile(r"\w+")
_STOP = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "did", "do", "does", "for", "from", "had", "has", "have",
    "how", "in", "is", "it", "its", "of", "on", "or", "that", "the", "their", "there", "they", "this", "to", "was",
    "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "would",
])  # fmt: skip
_TABLE = "create virtual table documents using fts5(title, text, tokenize='porter unicode61')"
_QUERY = "select text from documents where documents match ? order by bm25(documents, 2.0, 1.0), rowid limit ?"


class Index:
    """A full-text index of documents: stored beside a file, or in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self._lock = connection, Lock()
        self._common = {word for (word,) in connection.execute("select word from common")}

    @staticmethod
    def of(documents: Iterable[Document]) -> Index:
        """An index in memory."""
        return Index(_filled(sqlite3.connect(":memory:", check_same_thread=False), documents))

    @staticmethod
    def beside(path: str | Path) -> Index:
        """The index of a corpus file (JSONL of {"title", "text"}). It is built once and stored beside the file, under a
        name with the file's digest; in memory if the folder is not writable. InputError names an invalid line."""
        path = Path(path)
        place = path.with_name(f"{path.name}.{digest(path)[:16]}.v{FORMAT}.sqlite")
        if not place.exists() and not os.access(path.parent, os.W_OK):
            return Index.of(read_corpus(path))
        if not place.exists():
            _build(place, read_corpus(path))
        return Index(
            sqlite3.connect(f"{place.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        )

    def search(self, query: str, count: int = 1) -> list[str]:
        """The texts of the `count` best documents."""
        if not (words := self.words(query)):
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            return [text for (text,) in self._connection.execute(_QUERY, (wanted, count))]

    def words(self, query: str) -> list[str]:
        """The search words: each once, without common ones unless there are no others."""
        found = [word for word in dict.fromkeys(_WORD.findall(query.lower())) if len(word) <= LONGEST]
        rare = [word for word in found if word not in _STOP and word not in self._common]
        return (rare or found)[:WORDS]


def read_corpus(path: str | Path) -> Iterator[Document]:
    """The documents of a corpus file. InputError names an invalid line."""

    def document(data: Json) -> Document:
        title, text = data.get("title", ""), data["text"]
        if not (isinstance(title, str) and isinstance(text, str)):
            raise ValueError('expected text as "title" and "text"')
        return title, text

    return read_jsonl(path, document)


def read_memo(path: str | Path) -> dict[str, str]:
    """Query -> observation, from JSONL of {"query", "observation"}; of equal queries the first. Runs only read it."""
    memo: dict[str, str] = {}
    for query, observation in read_jsonl(path, lambda data: (data["query"], data["observation"])):
        if not (isinstance(query, str) and isinstance(observation, str)):
            raise InputError(f'{path}: expected text as "query" and "observation"')
        memo.setdefault(" ".join(query.split()), observation)
    return memo


def documents(request: Request) -> Sequence[Document]:
    """The documents of the scenario."""
    given: Sequence[Mapping[str, str]] = (request.observation or {}).get("documents", ())
    return [(each["title"], each["text"]) for each in given]


def _build(place: Path, found: Iterable[Document]) -> None:
    """Writes an index file atomically; several processes may do so at once."""
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with closing(sqlite3.connect(draft)) as connection:
            _filled(connection, found)
        os.replace(draft, place)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _filled(connection: sqlite3.Connection, found: Iterable[Document]) -> sqlite3.Connection:
    """Fills an index with the documents and their common words."""
    frequent, count = Counter[str](), 0
    connection.execute(_TABLE)
    connection.execute("create table common (word text primary key)")
    for title, text in found:
        connection.execute("insert into documents values (?, ?)", (title, text))
        frequent.update(set(_WORD.findall(f"{title} {text}".lower())))
        count += 1
    if count > 1000:
        common = [(word,) for word, times in frequent.items() if times > COMMON * count]
        connection.executemany("insert into common values (?)", common)
    connection.commit()
    return connection
