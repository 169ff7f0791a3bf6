"""A run with stored matches of Deal, a study of it, and people who click through its pages by the server's routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiohttp.test_utils import TestClient, TestServer
from parley.data.judge import RubricJudge
from parley.data.store import EpisodeStore
from parley.games.deal.game import Deal
from parley.run.match import play_match
from parley.table.part import Desk
from parley.table.persons import Persons
from parley.table.plan import Pay, Plan
from parley.table.server import Serving, Site
from parley.table.study import Study

Client = TestClient[Any, Any]
SCALES = {"goal": {"low": 0, "high": 10, "says": "reached"}, "tone": {"low": -5, "high": 5, "says": "kind"}}
BEFORE, AFTER = "iter_000/eval/sampled", "iter_003/eval/sampled"
PLAN: dict[str, Any] = {
    "version": "2", "consent": "Do you agree?", "training": "Train on it.", "instructions": "Be careful.",
    "questions": [{"ask": "2 + 2?", "options": ["3", "4"], "answer": 1}], "tries": 2, "rate": 3, "vote": 0, "play": 0,
    "attention": [{"after": 2, "ask": "Choose b.", "options": ["a", "b"], "answer": 1}], "misses": 0,
    "code": "DONE-{person}", "url": "https://example.org/done", "platform": "",
}  # fmt: skip
PAY: dict[str, Any] = {
    "base": 1.5,
    "match": "0.1 + 0.2 * payoff",
    "bonus": "0.25 * ratings + earned",
    "most": 9.0,
    "currency": "USD",
}
LEARNERS = {"first": "learner", "second": "learner"}
SERVING: dict[str, Any] = {
    "parts": {}, "host": "127.0.0.1", "port": 0, "outer_keys": ["WHO"], "max_bytes": 20000, "per_minute": 1e9,
    "streams": 2, "forms_to": [], "framed_by": [], "preview": {"WHO": "NOBODY"},
}  # fmt: skip


def played(run: Path, stage: str, players: Sequence[Mapping[str, str]], policy: str = "v3") -> None:
    """Stores a scripted match of Deal on one scenario after the other, as if these players had sat there."""
    game = Deal()
    with EpisodeStore(run / stage) as store:
        for scenario, seated in zip(game.scenarios("train"), players, strict=False):
            found = play_match(game, dict.fromkeys(game.roles, "naive" if stage == BEFORE else "fair"), scenario)
            policies = {seat: "" if name.startswith("person:") else policy for seat, name in seated.items()}
            store.append(replace(found, id=f"{stage}/{scenario.id}/0", players=seated, policies=policies))


def study(**changed: Any) -> Study:
    """A study; what is `changed` goes to the part that has it."""
    plan = {key: changed.pop(key, value) for key, value in PLAN.items()}
    pay = {key: changed.pop(key, value) for key, value in PAY.items()}
    own: dict[str, Any] = {
        "stages": [AFTER],
        "ask": "Which?",
        "left": [BEFORE],
        "right": [AFTER],
        "per_item": 2,
        "abandon_s": 600.0,
        "reference": None,
    }
    judge = RubricJudge("people", "Judge.", SCALES)
    return Study(Plan(**plan), Pay(**pay), judge, **{**own, **changed})


def serve(run: Path, part: Study, work: Callable[[Client, Persons], Awaitable[None]]) -> None:
    """Runs `work` with a client of a table of `run` whose only part is the study. Called again, it is a restart."""

    async def go() -> None:
        at_work = cast(Any, SimpleNamespace(config=SimpleNamespace(seed=0), out=run / "table"))
        persons = Persons(run / "table", ["WHO"])
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(part.open(Desk(run / "table/study", run, at_work, persons)))
            site = Site({"study": served}, persons, Serving(**SERVING))
            await work(await stack.enter_async_context(TestClient(TestServer(site.application()))), persons)

    asyncio.run(go())


class Visitor:
    """Somebody who takes the study."""

    def __init__(self, client: Client, persons: Persons, outer: str = "") -> None:
        self.client = client
        self.person, token = persons.join({"WHO": outer} if outer else {})
        self.at = f"/p/{token}/study"

    async def step(self) -> dict[str, Any]:
        return await self._json(self.client.get(f"{self.at}/step"), 200)

    async def send(self, what: str, status: int = 200, **body: Any) -> dict[str, Any]:
        return await self._json(self.client.post(f"{self.at}/{what}", json=body), status)

    async def enter(self, training: bool = False) -> dict[str, Any]:
        """As far as the first task."""
        await self.send("consent", agree=True, training=training)
        await self.send("read")
        return await self.send("questions", given=[1])

    async def rate(self, now: Mapping[str, Any], goal: int = 5) -> dict[str, Any]:
        each = {scale["name"]: min(goal, scale["high"]) for scale in now["scales"]}
        return await self.send("rate", item=now["item"], scores=dict.fromkeys(now["subjects"], each))

    async def _json(self, answer: Any, status: int) -> dict[str, Any]:
        async with answer as found:
            told: dict[str, Any] = await found.json()
            assert found.status == status, told
            return told
