"""Tables for tests: a stored run without a model, its site through aiohttp's own client, people who play by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.cli.main import check  # noqa: F401  (registers the config's schema)
from parley.games.base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Json,
    Match,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    legal,
)  # fmt: skip
from parley.report.progress import Progress, terminal
from parley.run.build import build
from parley.run.run import Run
from parley.table.part import Desk, Part
from parley.table.persons import Persons
from parley.table.play import Play
from parley.table.server import Serving, Site

SETTINGS: dict[str, Any] = {
    "parts": {}, "host": "127.0.0.1", "port": 0, "outer_keys": [], "max_bytes": 20000, "per_minute": 1e6, "streams": 4,
    "forms_to": [], "framed_by": [], "preview": {},
}  # fmt: skip


def a_run(folder: Path, *overrides: str) -> Path:
    """A run's folder as far as the table needs it: a config."""
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["task=table", f"run={folder}", *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return folder


def a_play(**changed: Any) -> Play:
    """The part `play` for people among themselves, with `changed` settings."""
    settings: dict[str, Any] = {
        "partner": None, "wait_s": 0.0, "patience_s": 600.0, "split": "test", "matches": None, "longest": 2000,
    }  # fmt: skip
    return Play(**settings | changed)


@asynccontextmanager
async def open_table(
    folder: Path, parts: Mapping[str, Part], game: Any = None, blind: bool = False
) -> AsyncIterator[tuple[TestClient[Any, Any], Persons]]:
    """The site of a stored run; `game` is played in place of the run's."""
    config = OmegaConf.load(folder / "config.yaml")
    persons = Persons(folder / "table")
    with Progress(terminal(quiet=True)) as progress:
        at_work = Run(build(config, folder / "table"), folder / "table", progress)
        if game is not None:
            at_work = _with(at_work, game)
        async with AsyncExitStack() as held:
            desks = {name: Desk(folder / "table" / name, folder, at_work, persons, blind) for name in parts}
            served = {name: await held.enter_async_context(part.open(desks[name])) for name, part in parts.items()}
            site = Site(served, persons, Serving(**SETTINGS))
            yield await held.enter_async_context(TestClient(TestServer(site.application()))), persons


def _with(run: Run, game: Any) -> Run:
    return Run(replace(run.parts, game=game), run.out, run.progress)


class Page:
    """A person's page: what it was sent, answer by answer and line by line, and what it sends."""

    def __init__(self, client: TestClient[Any, Any], token: str) -> None:
        self.client, self.at = client, f"/p/{token}/play"
        self.states: list[dict[str, Any]] = []
        self.writing: list[dict[str, Any]] = []
        self.raw: list[bytes] = []

    @property
    def state(self) -> dict[str, Any]:
        return self.states[-1] if self.states else {"phase": ""}

    async def post(self, word: str, **body: Any) -> int:
        async with self.client.post(f"{self.at}/{word}", json=body) as answer:
            self.raw.append(await answer.read())
            return answer.status

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Page]:
        """While the page is open, its events come."""
        task = asyncio.create_task(self._events())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _events(self) -> None:
        async with self.client.get(f"{self.at}/events") as answer:
            async for line in answer.content:
                self.raw.append(line)
                if line.startswith(b"data: "):
                    told = json.loads(line[6:])
                    (self.states if "phase" in told else self.writing).append(told)

    async def until(self, *phases: str, question_not: str = "") -> dict[str, Any]:
        """The state, once it is one of `phases` (and asks something else than `question_not`)."""
        while self.state["phase"] not in phases or (question_not and self.state.get("question") == question_not):
            await asyncio.sleep(0.005)
        return self.state

    async def play(self, script: Callable[[Request, Random, Random], str], matches: int = 1) -> None:
        """Plays by a script of the game to the end."""
        for _ in range(matches):
            assert await self.post("sit", alone=False) == 200
            await self.until("lobby", "ask", "wait")
            last = ""
            while (state := await self.until("ask", "over", "lost", question_not=last))["phase"] == "ask":
                last = state["question"]
                request = Request(last.rpartition("/")[2], state["seat"], (), state["kind"], observation=state["seen"])
                text = script(request, Random(last), Random(self.at))
                assert await self.post("say", question=last, text=text) == 200
                await asyncio.sleep(0)


class Marked:
    """A game of two whose seats each have a secret word, which the other may not see. The reply "no" is illegal."""

    name, version, roles = "marked", 1, ("left", "right")

    def __init__(self, count: int = 50) -> None:
        self.count = count
        self.facts = Facts(0.0, 1.0, max_requests=30, max_retries=5, held_out=False)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        return [Scenario(f"s{n}", {"words": [f"zqleft{n}x", f"zqright{n}x"]}) for n in range(self.count)]

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario.data["words"]))

    def scripts(self) -> Mapping[str, Script]:
        return {"polite": lambda request, own, persona: f"hello {request.id}"}

    def _turns(self, words: Sequence[str]) -> Turns:
        views = {seat: View(seat, f"your word is {word}") for seat, word in zip(self.roles, words, strict=True)}
        marks: dict[str, dict[str, Json]] = {}

        def read(reply: Reply) -> str | Illegal:
            return Illegal("no", "no is no reply") if reply.text == "no" else reply.text

        for turn in range(4):
            seat, other = self.roles[turn % 2], self.roles[1 - turn % 2]
            seen = {"word": words[turn % 2], "turn": turn}
            said = yield from legal(views[seat], read, 5, marks, seen)
            views[other].tell(said)
        return Result({"left": 1.0, "right": 0.0}, "done", marks=marks)
