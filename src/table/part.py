"""The contract of a part of the site: a page, and the routes that its script calls.

A part is a node of `table.parts` in the config: `{play: {_target_: parley.table.play.Play, …}}`. Its name there is the
segment of its paths. Of the part `play`, for the person whose token is TOKEN,

    GET  /p/TOKEN/play            its page, a file of `static/` that loads its own script and style from /static/
    GET  /p/TOKEN/play/NAME       a function of `reads`: JSON out
    POST /p/TOKEN/play/NAME       a function of `takes`: JSON in, JSON out
    GET  /p/TOKEN/play/NAME       a function of `streams`: server-sent events, each one JSON value

Before it calls a function, the server checks token, origin, size, rate and JSON. All functions run on one event loop:
work of more than a few milliseconds belongs in a thread (`asyncio.to_thread`). To refuse a request, a function raises
`Refusal`, whose text the person sees.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from ..games.base import Json
from ..run.run import Run
from ..system.printing import printable
from .persons import Person, Persons

Body: TypeAlias = Mapping[str, Json]
Read: TypeAlias = Callable[[Person], Awaitable[Json]]
Take: TypeAlias = Callable[[Person, Body], Awaitable[Json]]
Stream: TypeAlias = Callable[[Person], AsyncIterator[Json]]


class Refusal(Exception):
    """Raised to refuse a request, with one sentence for the person and the HTTP status."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Desk:
    """The surroundings of a part.

    folder   the part's own folder `<run>/table/<name of the part>`; the part makes it when needed
    run      directory of the served run; its config is `at_work.config`
    at_work  game, seats, opponents and config of that run; `at_work.out` is `<run>/table`
    persons  all people who have come
    blind    whether there is a study; then no page of any part names the players
    """

    folder: Path
    run: Path
    at_work: Run
    persons: Persons
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """A running part. `title` is its name on the home page, `page` its file in `static/`.

    `holds(person)` returns why the person may not use the other parts yet ("": they may), such as a study's missing
    consent; the home page then sends them to this part. `about` is the text for visitors in preview.
    """

    title: str
    page: str
    reads: Mapping[str, Read] = field(default_factory=dict)
    takes: Mapping[str, Take] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)
    holds: Callable[[Person], str] = lambda person: ""
    about: str = ""


class Part(Protocol):
    """A part as built from the config, checked against the signature of its `_target_`. A study sets `blind = True`
    (see `Desk`)."""

    def open(self, desk: Desk) -> AbstractAsyncContextManager[Served]:
        """Starts the part, for as long as the server runs. ConfigError if its settings do not fit the run."""


def text(body: Body, key: str, most: int) -> str:
    """The text under `key` in a request's body, stripped.

    Refusal if it is not text, is longer than `most` characters, or contains control characters, marks that change the
    writing direction, or half a surrogate pair.
    """
    value = body.get(key)
    if not isinstance(value, str):
        raise Refusal(f"{_named(key)} must be text")
    value = value.replace("\r\n", "\n").strip()
    if len(value) > most:
        raise Refusal(f"{_named(key)} has {len(value):,} characters, and may have {most:,}: shorten it")
    if printable(value) != value:
        raise Refusal(f"{_named(key)} holds characters that cannot be shown: type it anew as plain text")
    return value


def _named(key: str) -> str:
    return f"'{re.sub(r'[^a-z_]', '', key)}'"
