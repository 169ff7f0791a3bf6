"""What a part of the site is: a page, and the routes that its script calls.

A part is a node of `table.parts` in the config: `{play: {_target_: parley.table.play.Play, …}}`. Its name there is the
segment of its paths. Of the part `play`, for the person whose token is TOKEN,

    GET  /p/TOKEN/play            its page, a file of `static/` that loads its own script and style from /static/
    GET  /p/TOKEN/play/NAME       a function of `reads`: JSON out
    POST /p/TOKEN/play/NAME       a function of `takes`: JSON in, JSON out
    GET  /p/TOKEN/play/NAME       a function of `streams`: server-sent events, each one JSON value

The server has checked token, origin, size, rate and JSON before a function is called, and runs all of them on one event
loop: whatever takes longer than a few milliseconds belongs into a thread (`asyncio.to_thread`). A function that refuses
raises `Refusal`; its text is shown to the person.
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
    """Why a request is not fulfilled: one sentence that the person is shown, and the HTTP status."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Desk:
    """What a part is given to work with.

    folder   where its files lie: `<run>/table/<name of the part>`, which it makes when it needs it
    run      directory of the run that is served; its config is `at_work.config`
    at_work  game, seats, opponents and config of that run; `at_work.out` is `<run>/table`
    persons  who has come
    blind    whether people are taken through a study: no page of any part tells them who played
    """

    folder: Path
    run: Path
    at_work: Run
    persons: Persons
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """A part at work. `title` names it on the home page, `page` is its file in `static/`.

    `holds(person)` says why the person may not use the other parts yet ("": they may): a study holds those who have not
    consented. The home page sends them to the part that holds them. `about` is what those are told who only look.
    """

    title: str
    page: str
    reads: Mapping[str, Read] = field(default_factory=dict)
    takes: Mapping[str, Take] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)
    holds: Callable[[Person], str] = lambda person: ""
    about: str = ""


class Part(Protocol):
    """A part as the config builds it: its settings, checked against the signature of its `_target_`. A study has
    `blind = True` (see `Desk`)."""

    def open(self, desk: Desk) -> AbstractAsyncContextManager[Served]:
        """The part at work, for as long as the server runs. ConfigError where its settings do not fit the run."""


def text(body: Body, key: str, most: int) -> str:
    """The text under `key` of what a person sent, without blanks around it.

    Refusal for what is no text, longer than `most` characters, or holds control characters, marks that turn the
    direction of writing around, or half a surrogate pair.
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
