"""What the people of a table did, in order: one append-only file, from which everything else is computed.

    {"time": 1767225600.0, "person": "p1f…", "what": "consent", "version": "2", "training": true}
    {"time": …, "person": …, "what": "rating", "item": …, "scores": {"goal": {"first": 7.0, "second": 3.0}}, …}

`Standing.after` says which kinds there are. A line is never rewritten; only forgetting takes a person's
lines out.
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
    """The events in a folder, one at a time; none where nothing happened. InputError names a bad line."""
    if (folder / FILE).exists():
        yield from read_jsonl(folder / FILE, _event)


def standings(studies: Iterable[Path]) -> dict[tuple[str, str], Standing]:
    """Where each person stands in each of these studies: (name of its folder, person) -> standing."""
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
    """The events of `folder`, open for more, and where each person stands."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        repair(folder / FILE)
        self.standings: dict[str, Standing] = defaultdict(Standing)
        for event in read(folder):
            self._fold(event)

    async def add(self, person: str, what: str, **told: Any) -> Mapping[str, Any]:
        """Stores what a person did, durably, and returns the event. A slow disk holds up nobody else: a thread writes.
        Who adds waits for the end of one event before the next, so that the file has their order."""
        event = {"time": round(self._clock(), 3), "person": person, "what": what, **told}
        await asyncio.to_thread(append_lines, self.folder / FILE, [json.dumps(event, allow_nan=False)])
        self._fold(event)
        return event

    def now(self) -> float:
        """Seconds since the epoch, as events have them."""
        return self._clock()

    def _fold(self, event: Mapping[str, Any]) -> None:
        self.standings[event["person"]] = self.standings[event["person"]].after(event)
