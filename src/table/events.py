"""The event log of a study: what people did, in one append-only file from which everything else is computed.

    {"time": 1767225600.0, "person": "p1f…", "what": "consent", "version": "2", "training": true}
    {"time": …, "person": …, "what": "rating", "item": …, "scores": {"goal": {"first": 7.0, "second": 3.0}}, …}

`Standing.after` handles each kind. Lines are never rewritten; only forgetting a person removes theirs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.store import repair
from ..system.files import append_lines, read_jsonl
from .plan import Standing

FILE = "events.jsonl"


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Reads the events in a folder one at a time; none if it has no file. InputError names a bad line."""
    if (folder / FILE).exists():
        yield from read_jsonl(folder / FILE, _event)


def standings(studies: Iterable[Path]) -> dict[tuple[str, str], Standing]:
    """(name of the study's folder, person) -> the person's standing in that study."""
    found: dict[tuple[str, str], Standing] = defaultdict(Standing)
    for folder in studies:
        for event in read(folder):
            found[folder.name, event["person"]] = found[folder.name, event["person"]].after(event)
    return dict(found)


def _event(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row["person"], str) or not isinstance(row["what"], str):
        raise ValueError("no event of a table")
    return row


class Events:
    """The events of `folder`, open for appending, and each person's standing."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        repair(folder / FILE)
        self.standings: dict[str, Standing] = defaultdict(Standing)
        for event in read(folder):
            self._fold(event)

    async def add(self, person: str, what: str, **told: Any) -> Mapping[str, Any]:
        """Appends an event durably, in a thread, so that a slow disk stalls nobody else, and returns it. Await one
        call before the next: the file keeps their order."""
        event = {"time": round(self._clock(), 3), "person": person, "what": what, **told}
        await asyncio.to_thread(append_lines, self.folder / FILE, [json.dumps(event, allow_nan=False)])
        self._fold(event)
        return event

    def now(self) -> float:
        """The time for events, in seconds since the epoch."""
        return self._clock()

    def _fold(self, event: Mapping[str, Any]) -> None:
        self.standings[event["person"]] = self.standings[event["person"]].after(event)
