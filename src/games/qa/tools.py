"""The agent's tools: their interface, and `Search`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeAlias

from ...system.files import InputError
from ..base import Request, Script, Tool
from . import remote
from .search import Index, documents, read_memo

Engine: TypeAlias = Literal["documents", "corpus", "memo", "serpapi", "http"]
ENGINES: tuple[Engine, ...] = ("documents", "corpus", "memo", "serpapi", "http")
NEEDS: Mapping[str, str] = {"corpus": "corpus", "memo": "memo", "http": "url"}


class AgentTool(Protocol):
    """A tool. `says` describes it to the agent in a sentence; `service` answers requests whose `observation` has the
    `argument` that the agent wrote, a line of untrusted text. A tool that reads files lists them in `files` (name ->
    path)."""

    @property
    def says(self) -> str:
        """Its description, as in "works out a sum."."""

    @property
    def service(self) -> Script | Tool:
        """The script or external tool that answers."""


class Search:
    """A search engine.

    engine    documents (those of the scenario), corpus (a file), memo (a file), serpapi (Google; key in
              SERPAPI_API_KEY), http (your own server; key, if needed, in PARLEY_SEARCH_KEY)
    corpus    JSONL of {"title", "text"}
    memo      JSONL of {"query", "observation"}: searched before the engine; never written by a run
    url       address of the server (for serpapi: in place of SerpAPI's own)
    count     number of documents per answer
    limits    `parallel`, `timeout_s`, `retries`, `max_requests` of `games.base.Tool`, for serpapi and http

    ValueError for an engine without its required option, FileNotFoundError for a missing file.
    """

    says = "looks it up and gives what was found."

    def __init__(
        self,
        engine: Engine,
        corpus: str | None = None,
        memo: str | None = None,
        url: str | None = None,
        count: int = 1,
        limits: Mapping[str, float | None] | None = None,
    ) -> None:
        given = {"corpus": corpus, "memo": memo, "url": url}
        if engine not in ENGINES:
            raise ValueError(f"search={engine!r}, expected one of {', '.join(ENGINES)}")
        if (need := NEEDS.get(engine)) and given[need] is None:
            raise ValueError(f"search={engine} needs {need}: say game.{need}=…")
        self.files = {name: path for name, path in (("corpus", corpus), ("memo", memo)) if path is not None}
        if missing := [path for path in self.files.values() if not Path(path).is_file()]:
            raise FileNotFoundError(f"search: there is no file {missing[0]}")
        makers: Mapping[str, Callable[[], Callable[[Request], str]]] = {
            "documents": lambda: partial(_own, count), "corpus": partial(_corpus, corpus or "", count),
            "memo": lambda: lambda request: "", "serpapi": partial(remote.serpapi, url),
            "http": partial(remote.http, url or "", count),
        }  # fmt: skip
        self._make = makers[engine]
        self._memo = memo
        bounds = _limits(limits or {}) if engine in ("serpapi", "http") else {}
        self.service: Script | Tool = (
            _scripted(self._build()) if engine == "documents" and memo is None else Tool(self._build, **bounds)  # type: ignore[arg-type]
        )

    def _build(self) -> Callable[[Request], str]:
        """The engine, behind the memo if there is one."""
        engine, memo = self._make(), {} if self._memo is None else read_memo(self._memo)

        def answer(request: Request) -> str:
            known = memo.get(argument(request))
            return engine(request) if known is None else known

        return answer if memo else engine


def _limits(given: Mapping[str, float | None]) -> dict[str, float | None]:
    """`given`, if they are limits of a tool. ValueError names the others."""
    least = {"parallel": 1, "timeout_s": 0, "retries": 0, "max_requests": 1}
    for name, value in given.items():
        if name not in least:
            raise ValueError(f"search: limits.{name} is none of {', '.join(least)}")
        if value is None and name == "max_requests":
            continue
        if not isinstance(value, int | float) or value < least[name]:
            raise ValueError(f"search: limits.{name} is {value!r}, expected at least {least[name]}")
    return dict(given)


def argument(request: Request) -> str:
    """The argument of a tool request."""
    asked = (request.observation or {}).get("argument")
    if not isinstance(asked, str):
        raise InputError(f"request {request.id!r} to {request.seat!r} has no argument in its observation")
    return asked


def _own(count: int, request: Request) -> str:
    return " ".join(Index.of(documents(request)).search(argument(request), count))


def _corpus(path: str, count: int) -> Callable[[Request], str]:
    index = Index.beside(path)
    return lambda request: " ".join(index.search(argument(request), count))


def _scripted(answer: Callable[[Request], str]) -> Script:
    def script(request: Request, own: Random, persona: Random) -> str:
        return answer(request)

    return script
