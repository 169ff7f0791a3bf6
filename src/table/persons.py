"""People and their tokens: a person has a random id, and is recognised by a 128-bit token or another service's id.

The files lie in `<run>/table/`, readable by their owner only. `persons.jsonl` maps digests of tokens and outer ids to
persons; tokens themselves are never stored. `doors.json` has the secret words of the invitation links, which stay the
same after a restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..data.consent import PERSON
from ..data.store import repair
from ..system.files import append_lines, read_json, read_jsonl

BYTES = 16  # in a token, a door and a salt: 128 bits
FILE, DOORS = "persons.jsonl", "doors.json"
OUTER = re.compile(r"[\w.:@+-]{1,200}")  # an id from another service


def is_person(player: str) -> bool:
    """Whether this player's name in a record belongs to a person at a table."""
    return player.startswith(PERSON)


@dataclass(frozen=True, slots=True)
class Person:
    """A person. `id` is a pseudonym, the same in all records of this run."""

    id: str

    @property
    def player(self) -> str:
        """The person's player name in matches."""
        return f"{PERSON}{self.id}"


@dataclass(frozen=True, slots=True)
class _Line:
    person: str
    token: str  # digest
    outer: str  # digest of another service's id; "" for none
    at: str  # UTC


class Persons:
    """All people who have come, stored in `folder`.

    `outer_keys` are the query parameters in which another service passes its own id of a person (PROLIFIC_PID,
    workerId). The same outer id means the same person, who gets a new token; older tokens stay valid.
    """

    def __init__(self, folder: Path, outer_keys: Sequence[str] = ()) -> None:
        self.folder, self.outer_keys = folder, tuple(outer_keys)
        private(folder / FILE)
        private(folder / DOORS, "{}")
        repair(folder / FILE)
        self._doors: dict[str, str] = read_json(folder / DOORS)
        self._salt = self.door("salt")
        self._by_token: dict[str, Person] = {}
        self._by_outer: dict[str, Person] = {}
        for line in read_jsonl(folder / FILE, lambda row: _Line(**row)):
            self._know(line)

    def door(self, name: str) -> str:
        """The secret word of the invitation link `name`, made at the first call."""
        if name not in self._doors:
            self._doors[name] = secrets.token_urlsafe(BYTES)
            draft = private(self.folder / f".{DOORS}.tmp")
            draft.write_text(json.dumps(self._doors))
            os.replace(draft, self.folder / DOORS)
        return self._doors[name]

    def join(self, given: Mapping[str, str]) -> tuple[Person, str]:
        """Returns (person, new token). `given` are the query parameters of the link."""
        outer = next(
            (self._digest(key, given[key]) for key in self.outer_keys if OUTER.fullmatch(given.get(key, ""))), ""
        )
        person = self._by_outer.get(outer) or Person(secrets.token_hex(6))
        token = secrets.token_urlsafe(BYTES)
        line = _Line(person.id, digest(token), outer, datetime.now(UTC).isoformat(timespec="seconds"))
        append_lines(self.folder / FILE, [json.dumps(asdict(line))])
        self._know(line)
        return person, token

    def of(self, token: str) -> Person | None:
        """The person with this token, or None."""
        return self._by_token.get(digest(token))

    def __contains__(self, person: object) -> bool:
        return person in self._by_token.values()

    def forget(self, person: Person) -> None:
        """Removes a person's tokens and outer id from the map, which invalidates their links."""
        left = [line for line in read_jsonl(self.folder / FILE, lambda row: _Line(**row)) if line.person != person.id]
        draft = private(self.folder / f".{FILE}.tmp")
        draft.write_text("".join(json.dumps(asdict(line)) + "\n" for line in left))
        os.replace(draft, self.folder / FILE)
        for known in (self._by_token, self._by_outer):
            for key in [key for key, each in known.items() if each == person]:
                del known[key]

    def _know(self, line: _Line) -> None:
        self._by_token[line.token] = Person(line.person)
        if line.outer:
            self._by_outer[line.outer] = Person(line.person)

    def _digest(self, *words: str) -> str:
        return digest("\x1f".join([self._salt, *words]))


def digest(token: str) -> str:
    """The stored form of a token; with 128 random bits it cannot be reversed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def private(path: Path, text: str = "") -> Path:
    """Creates `path` with `text` if it is missing, makes it readable by its owner only, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(handle, 0o600)
        if text and not os.fstat(handle).st_size:
            os.write(handle, text.encode())
    finally:
        os.close(handle)
    return path
