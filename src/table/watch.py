"""Watching running and finished runs, from the files that they write anyway.

The watchers' link shows a list of the runs below some folders, each run's report, and a search in their matches by
outcome and metric. Watchers see no open match, no match of people and nothing of a study.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ..games.base import Json
from ..report.listing import Listed, runs
from ..report.pages import allowed, render
from ..report.run import figure, number
from ..report.search import ENDLESS, Found, Place, Query, Search
from ..report.transcript import markup, spoken
from ..system.printing import printable
from .part import Refusal

PAGE = 50  # matches per page
READING_S = 0.5  # most seconds to index new matches before a page is returned; the next page continues
REPORT = Path("report") / "index.html"
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src '{allowed('page.js')}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-popups"
)
"""The policy of a report, one file with its style and script inside. A run may come from anybody, so its report gets a
separate origin and no network, and only parley's own script may run."""


class Watching:
    """The runs below `folders`, listed again after `fresh_s` seconds. `indexes` holds the search indexes of their
    matches."""

    def __init__(self, folders: Sequence[str], indexes: Path, fresh_s: float = 5.0) -> None:
        self.folders, self.fresh_s = list(folders), fresh_s
        self.search = Search(indexes)
        self._found: dict[str, Listed] = {}
        self._at = self._read = -fresh_s
        self._left = 0  # bytes of stores not indexed yet
        self._looking, self._searching = asyncio.Lock(), asyncio.Lock()

    async def listed(self) -> Json:
        """All runs, the most recently changed first."""
        now = time.time()
        return [_row(key, each, now) for key, each in (await self._runs()).items()]

    async def report(self, key: str) -> bytes:
        """The report of the run with this key."""
        if (found := (await self._runs()).get(key)) is None:
            raise Refusal("there is no such run", 404)
        path = (found.path / REPORT).resolve()
        if not path.is_relative_to(found.path.resolve()):  # a symbolic link that leads out of the run
            raise Refusal("the report of this run lies elsewhere, so it is not shown", 404)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise Refusal("this run has no report yet: the first one comes after its first iteration", 404) from None

    async def matches(self, run: str, query: Query, after: Place | None) -> Json:
        """The next matches of a run ("": of all runs), the outcomes and metrics to choose from, and the megabytes not
        indexed yet."""
        known = {key: each.path for key, each in (await self._runs()).items() if run in ("", key)}
        runs = dict(sorted(known.items(), key=lambda each: each[1], reverse=True))  # paths hold the date
        async with self._searching:
            return await asyncio.to_thread(self._matches, runs, query, after)

    async def match(self, run: str, match: str) -> str:
        """The page of a match."""
        if (found := (await self._runs()).get(run)) is None:
            raise Refusal("there is no such run", 404)
        try:
            async with self._searching:
                episode = await asyncio.to_thread(self.search.episode, run, found.path, match)
        except KeyError:
            raise Refusal("there is no such match in this run", 404) from None
        return render("alone.html", title=episode.id, match=markup(episode, spoken(episode)))

    def _matches(self, runs: dict[str, Path], query: Query, after: Place | None) -> Json:
        if self._left or time.monotonic() - self._read > self.fresh_s:
            self._left = self.search.refresh(runs, READING_S)
            self._read = time.monotonic()
        found = self.search.find(runs, query, after, PAGE + 1)
        shown = found[:PAGE]
        return {
            "rows": [_found_row(each, bool(query.metric)) for each in shown],
            "after": ":".join(map(str, shown[-1].place)) if len(found) > PAGE else None,
            "outcomes": self.search.words(runs, "outcome"),
            "metrics": self.search.words(runs, "metric"),
            "left_mb": math.ceil(self._left / 1e6),
        }

    async def _runs(self) -> dict[str, Listed]:
        async with self._looking:
            if time.monotonic() - self._at > self.fresh_s:
                found = await asyncio.to_thread(runs, self.folders)
                self._found, self._at = {_key(each.path): each for each in found}, time.monotonic()
        return self._found


def place(told: str) -> Place | None:
    """Parses the place where the previous page of matches ended; None for the first page."""
    if not told:
        return None
    try:
        value, run, number = told.split(":")
        return Place(float(value), run, min(int(number), ENDLESS))
    except ValueError:
        raise Refusal("there is no such page of matches") from None


def _found_row(found: Found, valued: bool) -> Json:
    own = found.traits
    marks = [name for name in ("blamed", "retried", "forked") if getattr(own, name)]
    told = {"run": found.place.run, "stage": printable(found.stage), "match": own.match, "scenario": own.scenario}
    return {**told, "outcome": own.outcome, "marks": marks, "value": number(found.place.value) if valued else None}


def _key(run: Path) -> str:
    """The run's key in links; it stays the same until the run's folder is moved."""
    return sha256(str(run.resolve()).encode()).hexdigest()[:16]


def _row(key: str, run: Listed, now: float) -> Json:
    report = run.path / REPORT
    return {
        "key": key,
        "run": printable("/".join(run.path.parts[-2:])),
        "experiment": printable(run.experiment),
        "seed": printable(run.seed),
        "state": run.state,
        "done": run.iterations,
        "kept": f"{printable(run.metric)} {figure(run.kept)}" if run.kept else "",
        "gain": run.gain,
        "age_s": round(max(0.0, now - run.changed)),
        "report_s": round(max(0.0, now - report.stat().st_mtime)) if report.is_file() else None,
    }
