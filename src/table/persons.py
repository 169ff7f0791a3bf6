"""Who a person is: a name of their own, known by a token of 128 bits or by an id that another service gave them.

The files lie in `<run>/table/`, readable by their owner alone. `persons.jsonl` maps digests of tokens and of outer ids
to persons; a token itself is never written down. `doors.json` has the words of the invitation links, which are the same
after a restart.
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

BYTES = 16  # of a token, a door and a salt: 128 bits
FILE, DOORS = "persons.jsonl", "doors.json"
OUTER = re.compile(r"[\w.:@+-]{1,200}")  # an id that another service gave


def is_person(player: str) -> bool:
    """Whether the player of this name in a record is a person of some table."""
    return player.startswith(PERSON)


@dataclass(frozen=True, slots=True)
class Person:
    """A person. `id` is theirs in all records of this run, and says nothing of who they are."""

    id: str

    @property
    def player(self) -> str:
        """The name under which they sit in matches."""
        return f"{PERSON}{self.id}"


@dataclass(frozen=True, slots=True)
class _Line:
    person: str
    token: str  # digest
    outer: str  # digest of the id that another service gave; "" for none
    at: str  # UTC


class Persons:
    """All who have come, kept in `folder`.

    `outer_keys` are the query parameters of a link by which another service tells who comes (PROLIFIC_PID, workerId).
    Whoever comes again with the same outer id is the same person, with a new token; older ones stay good.
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
        """The word of the invitation link `name`, made when it is first asked for."""
        if name not in self._doors:
            self._doors[name] = secrets.token_urlsafe(BYTES)
            draft = private(self.folder / f".{DOORS}.tmp")
            draft.write_text(json.dumps(self._doors))
            os.replace(draft, self.folder / DOORS)
        return self._doors[name]

    def join(self, given: Mapping[str, str]) -> tuple[Person, str]:
        """(a person, their new token). `given` are the query parameters of the link by which they come."""
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
        """Whose token it is."""
        return self._by_token.get(digest(token))

    def __contains__(self, person: object) -> bool:
        return person in self._by_token.values()

    def forget(self, person: Person) -> None:
        """Removes a person's tokens and outer id from the map; their links are void from now on."""
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
    """What is written of a token: it cannot be guessed back, having 128 bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def private(path: Path, text: str = "") -> Path:
    """`path`, made with `text` in it where there is no such file, and readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(handle, 0o600)
        if text and not os.fstat(handle).st_size:
            os.write(handle, text.encode())
    finally:
        os.close(handle)
    return path
