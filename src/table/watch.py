"""Watching: runs while they are at work and after, from the files that they write anyway.

Who has the watchers' link sees a list of the runs below some folders, and the report of each, which a run writes anew
after its iterations. A watcher is no person: no open match, no match of people and nothing of a study is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ..games.base import Json
from ..report.listing import Listed, runs
from ..report.pages import allowed
from ..report.run import figure
from ..system.printing import printable
from .part import Refusal

REPORT = Path("report") / "index.html"
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src '{allowed('page.js')}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-popups"
)
"""Of a report, which is one file with its style and script inside: it has an origin of its own and no network, and of
scripts parley's own alone is run, for a run may come from anybody."""


class Watching:
    """The runs below `folders`; they are looked for again after `fresh_s` seconds."""

    def __init__(self, folders: Sequence[str], fresh_s: float = 5.0) -> None:
        self.folders, self.fresh_s = list(folders), fresh_s
        self._found: dict[str, Listed] = {}
        self._at = -fresh_s
        self._looking = asyncio.Lock()

    async def listed(self) -> Json:
        """Every run, the one that was written to last first."""
        now = time.time()
        return [_row(key, each, now) for key, each in (await self._runs()).items()]

    async def report(self, key: str) -> bytes:
        """The report of the run with this key."""
        if (found := (await self._runs()).get(key)) is None:
            raise Refusal("there is no such run", 404)
        path = (found.path / REPORT).resolve()
        if not path.is_relative_to(found.path.resolve()):  # a link out of a run that somebody sent
            raise Refusal("the report of this run lies elsewhere, so it is not shown", 404)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise Refusal("this run has no report yet: the first one comes after its first iteration", 404) from None

    async def _runs(self) -> dict[str, Listed]:
        async with self._looking:
            if time.monotonic() - self._at > self.fresh_s:
                found = await asyncio.to_thread(runs, self.folders)
                self._found, self._at = {_key(each.path): each for each in found}, time.monotonic()
        return self._found


def _key(run: Path) -> str:
    """What a run is called in a link: the same for as long as it lies where it lies."""
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
