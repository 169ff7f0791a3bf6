"""Studies at the table, by scripted people who click through the real routes.

    PARLEY_DATA=… python benchmarks/show_studies.py

Twenty people take one study of Deal: two only look, one refuses, one does not understand, one does not pay attention,
the others play two matches against the script `fair`. Their bonuses are computed again by hand, one of them is
forgotten, and the rest of what was allowed trains a tiny model. Ten people vote on ten pairs each. With Sotopia-π's
ratings ($PARLEY_DATA/human_ratings, $PARLEY_DATA/sotopia) their raters enter the 592 ratings of the 151 whole
dialogues, one a rater and item; the exported file has to equal them, and task=agreement to say of it what it says of
the original. For that each dialogue has a study of its own, so that each rater is given what they rated. Exits
with 1 where one of these fails.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from parley.cli.main import completed
from parley.cli.tasks.importing import bring
from parley.cli.tasks.people import people
from parley.cli.tasks.statistics import agreement
from parley.cli.tasks.training import offline
from parley.data.store import EpisodeStore, Matches
from parley.games.deal.game import Deal
from parley.report.estimates import t_quantile
from parley.report.progress import Progress, terminal
from parley.run.build import build
from parley.run.run import Run
from parley.system.files import read_jsonl
from parley.table.part import Desk
from parley.table.persons import Persons
from parley.table.server import Serving, Site
from results import ROOT, record

sys.path.insert(0, str(ROOT / "tests" / "table"))

from a_table import Page
from studied import AFTER, BEFORE, LEARNERS, played

DATA = Path(os.environ.get("PARLEY_DATA", "nowhere"))
STUDY = "table.parts.study"
SMALL = ["model.width=32", "model.layers=1", "model.mlp=64"]
SEED = 0


def config(*words: str) -> DictConfig:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", completed(words))


def claim(claims: dict[str, bool], text: str, held: bool) -> None:
    claims[text] = bool(held)
    print("yes" if held else "NO ", text, flush=True)


@asynccontextmanager
async def opened(run: Path, *words: str) -> AsyncIterator[tuple[TestClient[Any, Any], Persons]]:
    """The table of `run`, as `task=table` builds it from a command line, without a port of its own."""
    own = config("task=table", f"run={run}", "table.per_minute=1e9", "table.outer_keys=[WHO]", *words)
    if not (run / "config.yaml").exists():
        OmegaConf.save(own, run / "config.yaml")
    folder = run / "table"
    serving: Serving = instantiate(own.table, _convert_="all")
    with Progress(terminal(quiet=True)) as progress:
        at_work, persons = Run(build(own, folder), folder, progress), Persons(folder, serving.outer_keys)
        async with AsyncExitStack() as held:
            served = {
                name: await held.enter_async_context(part.open(Desk(folder / name, run, at_work, persons)))
                for name, part in serving.parts.items()
            }
            site = Site(served, persons, serving)
            yield await held.enter_async_context(TestClient(TestServer(site.application()))), persons


@dataclass
class Visitor:
    """Somebody with an outer id, who came in by the link."""

    client: TestClient[Any, Any]
    token: str
    study: str = "study"  # the part of the table
    seen: str = ""  # every answer of the study, as it came

    @staticmethod
    async def come(client: TestClient[Any, Any], persons: Persons, outer: str, study: str = "study") -> Visitor:
        async with client.post(f"/join/{persons.door('join')}", json={"WHO": outer}) as answer:
            return Visitor(client, (await answer.json())["token"], study)

    async def step(self) -> dict[str, Any]:
        async with self.client.get(f"/p/{self.token}/{self.study}/step") as answer:
            return await self._read(answer)

    async def send(self, what: str, **body: Any) -> dict[str, Any]:
        async with self.client.post(f"/p/{self.token}/{self.study}/{what}", json=body) as answer:
            return await self._read(answer)

    async def _read(self, answer: Any) -> dict[str, Any]:
        text = await answer.text()
        self.seen += text
        found: dict[str, Any] = json.loads(text)
        return found


# --- one study, twenty people ---------------------------------------------------------------------------------------

PLAYING = [
    "game=deal_short", "table.parts.play.partner=fair", "table.parts.play.split=train", "table.parts.play.wait_s=0",
    f"+study@{STUDY}=playing",
    f"{STUDY}.plan.play=2", "+table.preview.assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE",
    f"{STUDY}.plan.attention=[{{after: 1, ask: Choose b., options: [a, b], answer: 1}}]",
]  # fmt: skip
REFUSES, CONFUSED, ABSENT = 2, 3, 4  # of the people 0 to 19; 0 and 1 only look


async def twenty(run: Path, claims: dict[str, bool]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Number -> id and last step of everybody who came in."""
    ends: dict[int, tuple[str, dict[str, Any]]] = {}
    async with opened(run, *PLAYING) as (client, persons):
        for number in range(2):
            body = {"WHO": f"worker-{number}", "assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"}
            async with client.post(f"/join/{persons.door('join')}", json=body) as answer:
                found = await answer.json()
            claim(claims, f"preview {number} reads the instructions and gets no token", [*found] == ["preview"])
        claim(claims, "who only looks is stored nowhere", not (run / "table/persons.jsonl").read_text())
        for number in range(2, 20):
            visitor = await Visitor.come(client, persons, f"worker-{number}")
            person = persons.of(visitor.token)
            assert person is not None
            ends[number] = person.id, await takes(visitor, number, client)
    return ends


async def takes(visitor: Visitor, number: int, client: TestClient[Any, Any]) -> dict[str, Any]:
    await visitor.step()
    now = await visitor.send("consent", agree=number != REFUSES, training=number % 2 == 0)
    if number == REFUSES:
        return now
    await visitor.send("read")
    now = await visitor.send("questions", given=[0 if number == CONFUSED else 1])
    if number == CONFUSED:
        return await visitor.send("questions", given=[0])
    while now["step"] in ("play", "attention"):
        if now["step"] == "attention":
            now = await visitor.send("attention", given=[0 if number == ABSENT else 1])
        else:
            async with Page(client, visitor.token).open() as page:
                await page.play(Deal().scripts()[("fair", "naive", "skilled")[number % 3]])
            now = await visitor.step()
    return now


def by_hand(run: Path, person: str) -> float:
    """The bonus of the study `playing`, from the records alone."""
    total = 0.0
    for episode in Matches(run / "table/play"):
        for seat, player in episode.players.items():
            if player == f"person:{person}":
                total += 0.10 + (0.20 * episode.result.returns[seat] if episode.result.returns[seat] > 0 else 0.0)
    return round(min(total, 20.0), 2)


def study(root: Path, claims: dict[str, bool]) -> dict[str, Any]:
    run = root / "study"
    run.mkdir()
    ends = asyncio.run(twenty(run, claims))
    steps = {number: now["step"] for number, (_, now) in ends.items()}
    early = {REFUSES: "refused", CONFUSED: "failed", ABSENT: "failed"}
    claim(claims, "one refused, one did not understand, one did not pay attention, fifteen are done",
          steps == {number: early.get(number, "done") for number in ends})  # fmt: skip
    paid = {ends[number][0]: ends[number][1]["pay"]["bonus"] for number in ends if steps[number] == "done"}
    claim(
        claims, "every bonus is the expression's value by hand", all(paid[each] == by_hand(run, each) for each in paid)
    )
    people(config("task=people", *PLAYING[:1], f"run={run}"), root / "before", str(run), [])
    allowed = _learned(root / "before")
    ticked = {own for number, (own, _) in ends.items() if number % 2 == 0 and number != REFUSES}
    claim(claims, "matches train only with the box ticked by whoever played", {*allowed} <= ticked and bool(allowed))
    gone = next(iter(allowed))
    people(config("task=people", *PLAYING[:1], f"run={run}"), root / "after", str(run), [gone])
    kept = [path.name for path in run.rglob("*") if path.is_file() and gone.encode() in path.read_bytes()]
    kept += [path.name for path in (root / "after").rglob("*") if path.is_file() and gone.encode() in path.read_bytes()]
    claim(claims, "a forgotten person is in no file of the table, nor in what is exported then",
          [name for name in kept if name not in ("config.yaml", "manifest.json")] == [])  # fmt: skip
    after = _learned(root / "after")
    claim(
        claims, "their matches train no more, all others as before", after == allowed - Counter({gone: allowed[gone]})
    )
    rows = _rows(root / "after/persons.csv")
    claim(claims, "the export has everybody else with the pay that the page told",
          {row["person"]: float(row["bonus"]) for row in rows if row["bonus"]}
          == {each: bonus for each, bonus in paid.items() if each != gone})  # fmt: skip
    samples = _trained(root, root / "after")
    claim(claims, "a round of learning took every one of these matches, and what people wrote alone",
          samples == after.total())  # fmt: skip
    return {
        "people": 20, "done": len(paid), "matches": len(Matches(run / "table/play")) + allowed[gone],
        "matches_to_learn_from": allowed.total(), "after_forgetting": after.total(), "samples_trained": samples,
        "bonuses": sorted(paid.values()),
    }  # fmt: skip


def _learned(out: Path) -> Counter[str]:
    """By person the matches that data=matches takes."""
    from parley.data.sources.matches import StoredMatches

    found = StoredMatches([str(out)]).recorded(Deal(), "learner")
    return Counter(told["person"] for each in found for told in each.extra["consent"].values())


def _trained(root: Path, people_: Path) -> int:
    words = ["task=offline", "game=deal_short", "data=matches", f"data.runs=[{people_}]", "data.players=[human]",
             "objective.credit.keep=all",
             "imitate.matches=64", "imitate.validation=8", "learner.epochs=1", "eval.scenarios=8", "eval.validation=8",
             "eval.opponents=[]", "iterations=1", *SMALL]  # fmt: skip
    offline(config(*words), root / "learned")
    learned = json.loads((root / "learned/iter_001/learn/learner/learn.json").read_text())
    return int(learned["metrics"]["samples"])


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


# --- a hundred votes ------------------------------------------------------------------------------------------------


async def voted(run: Path, claims: dict[str, bool]) -> dict[str, list[str]]:
    draw, sent, named = Random(SEED), defaultdict(list), 0
    words = ["game=deal", "~table.parts.play", f"+study@{STUDY}=voting", f"{STUDY}.per_item=10",
             f"{STUDY}.left=[{BEFORE}]", f"{STUDY}.right=[{AFTER}]"]  # fmt: skip
    async with opened(run, *words) as (client, persons):
        for number in range(10):
            visitor = await Visitor.come(client, persons, f"voter-{number}")
            person = persons.of(visitor.token)
            assert person is not None
            await visitor.step()
            now = await visitor.send("read")
            while now["step"] == "vote":
                shown = json.dumps({key: value for key, value in now.items() if key != "told"})
                named += any(word in shown for word in ("learner", "iter_", "v0", "v3"))
                vote = draw.choice(["left", "right", "tie", "both_bad"])
                sent[person.id].append(vote)
                now = await visitor.send("vote", item=now["item"], vote=vote)
                assert "learner" in now["told"]["left"] and "learner" in now["told"]["right"]
    claim(claims, "no page named a model or a stage before the vote", named == 0)
    return sent


def votes(root: Path, claims: dict[str, bool]) -> dict[str, Any]:
    run = root / "votes"
    for stage, policy in ((BEFORE, "v0"), (AFTER, "v3")):
        played(run, stage, [LEARNERS] * 10, policy)
    sent = asyncio.run(voted(run, claims))
    people(config("task=people", f"run={run}"), root / "voted", str(run), [])
    rows = _rows(root / "voted/votes.csv")
    own: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        own[row["person"]].append(row["vote"])
    claim(claims, "a hundred votes, ties included, are kept as they were sent", own == sent and len(rows) == 100)
    left = sum(row["left"] == row["first"] for row in rows)
    claim(claims, "sides are balanced: each of a pair is on the left fifty times", left == 50)
    figure = json.loads((root / "voted/figures.json").read_text())["votes"]["right preferred"]
    mean, half = interval_by_hand(rows)
    claim(claims, "the interval by person and scenario equals one by hand",
          abs(figure["mean"] - mean) < 1e-6 and abs(figure["high"] - mean - half) < 1e-6)  # fmt: skip
    return {"votes": dict(Counter(row["vote"] for row in rows)), "first_on_the_left": left, "right_preferred": figure}


def interval_by_hand(rows: list[dict[str, str]]) -> tuple[float, float]:
    """Pair by pair: residuals of votes by one person, on one scenario, and by one person on one scenario."""
    worth = []
    for row in rows:
        side = {"left": 1.0, "right": 0.0}.get(row["vote"], 0.5)
        worth.append(side if row["left"] == row["second"] else 1.0 - side)
    n, mean = len(worth), sum(worth) / len(worth)

    def variance(key: Callable[[dict[str, str]], Any]) -> float:
        clusters = len({key(row) for row in rows})
        total = sum(
            (worth[i] - mean) * (worth[j] - mean) for i in range(n) for j in range(n) if key(rows[i]) == key(rows[j])
        )
        return clusters / (clusters - 1) * total / n**2

    person, scenario = variance(lambda row: row["person"]), variance(lambda row: row["cluster"])
    both = variance(lambda row: (row["person"], row["cluster"]))
    fewer = min(len({row["person"] for row in rows}), len({row["cluster"] for row in rows}))
    return mean, t_quantile(fewer - 1) * sqrt(max(person + scenario - both, person, scenario))


# --- Sotopia-π's ratings --------------------------------------------------------------------------------------------


def ratings(root: Path, claims: dict[str, bool]) -> dict[str, Any]:
    run, wanted = root / "sotopia", _wanted()
    task = ["task=import", "game=social", f"game.path={DATA / 'sotopia'}"]
    bring(
        config(*task, f"task.path={DATA / 'human_ratings/episodes.jsonl'}"),
        run,
        str(DATA / "human_ratings/episodes.jsonl"),
    )
    people_ = asyncio.run(rated(run, wanted))
    people(config("task=people", f"run={run}", *task[1:]), root / "rated", str(run), [])
    found = {_key(row): row["scores"] for row in read_jsonl(root / "rated/ratings.jsonl")}
    expected = {(*key[:3], people_[key[3]]): scores for key, scores in wanted.items()}
    claim(claims, "the exported file equals the 592 ratings", len(found) == 592 and found == expected)
    figures = {}
    for name, file in (("exported", root / "rated/ratings.jsonl"), ("original", _original(root, wanted))):
        agreement(config("task=agreement"), root / name, [str(file)], [])
        figures[name] = {
            row["dimension"]: round(float(row["alpha"]), 3) for row in _rows(root / name / "agreement.csv")
        }
    claim(claims, "task=agreement says the same of both", figures["exported"] == figures["original"])
    own = figures["exported"]
    claim(claims, "alpha of goal is .703, of relationship .465", (own["goal"], own["relationship"]) == (0.703, 0.465))
    return {"ratings": len(found), "raters": len(people_), "dialogues": len({key[:2] for key in wanted}), "alpha": own}


Key = tuple[str, str, str, str]


def _key(row: dict[str, Any]) -> Key:
    return row["model"], row["episode"], str(row["agent"]), row["annotator"]


def _wanted() -> dict[Key, dict[str, float]]:
    """The first rating of each rater and item among the whole dialogues."""
    whole = {(row["model"], row["episode"]) for row in read_jsonl(DATA / "human_ratings/episodes.jsonl")}
    found: dict[Key, dict[str, float]] = {}
    for row in read_jsonl(DATA / "human_ratings/ratings.jsonl"):
        if (row["model"], row["episode"]) in whole:
            found.setdefault(_key(row), row["scores"])
    return found


def _original(root: Path, wanted: dict[Key, dict[str, float]]) -> Path:
    names = ("model", "episode", "agent", "annotator")
    lines = [json.dumps({**dict(zip(names, key, strict=True)), "scores": scores}) for key, scores in wanted.items()]
    (root / "original.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root / "original.jsonl"


async def rated(run: Path, wanted: dict[Key, dict[str, float]]) -> dict[str, str]:
    """Every rater enters every dialogue that they rated, each dialogue in a study of its own. Rater -> id."""
    people_: dict[str, str] = {}
    for number, episode in enumerate(list(Matches(run / "iter_001/play"))):
        stage = f"dialogues/{number:03d}"
        with EpisodeStore(run / stage) as store:
            store.append(episode)
        told = episode.extra["sotopia"]
        raters = {key[3] for key in wanted if key[:2] == (told["model"], told["episode"])}
        name = f"dialogue_{number:03d}"
        part = f"table.parts.{name}"
        words = ["game=social", f"game.path={DATA / 'sotopia'}", "~table.parts.play", f"+study@{part}=rating",
                 f"{part}.plan.rate=1000", f"{part}.per_item=1000", f"{part}.stages=[{stage}]"]  # fmt: skip
        async with opened(run, *words) as (client, persons):
            for rater in sorted(raters):
                visitor = await Visitor.come(client, persons, rater, name)
                person = persons.of(visitor.token)
                assert person is not None
                people_[rater] = person.id
                now = await visitor.step()
                now = await visitor.send("read") if now["step"] == "instructions" else now
                key = told["model"], told["episode"]
                scores = {
                    subject: wanted[(*key, str(agent), rater)] for agent, subject in enumerate(now["subjects"], 1)
                }
                await visitor.send("rate", item=now["item"], scores=scores)
    return people_


def main() -> int:
    claims: dict[str, bool] = {}
    parts: dict[str, Callable[[Path, dict[str, bool]], dict[str, Any]]] = {"study": study, "votes": votes}
    if (DATA / "human_ratings").is_dir():
        parts["ratings"] = ratings
    with tempfile.TemporaryDirectory() as name:
        figures = {each: part(Path(name), claims) for each, part in parts.items()}
    record("studies", {"seed": SEED, **figures, "claims": claims})
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
