"""Resumable stages: each writes its outputs into its folder and then a manifest; a stage whose manifest matches is
skipped.

Killing the process at any moment loses no finished stage. A stage that was cut off is called again on the same folder
and goes on from what it finds there (play: from the episodes that are stored; learn: from its last checkpoint).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ..data.seal import MANIFEST, manifest, sealed
from ..system import ranks
from ..system.files import InputError, digest, read_json, write_json

SPENT = ".spent-"  # begins the names of files that say what a process has spent on a stage: rank, then when it began
TICK_S = 5.0  # between two notes of that

_FROM = [time.perf_counter() - time.process_time(), 0.0]  # the first run of a process also pays for its imports


class Clock:
    """Wall and CPU seconds of one run: from the start of the process, or from the run before it in the same process."""

    def __init__(self) -> None:
        self._wall, self._cpu = _FROM
        _FROM[:] = [time.perf_counter(), time.process_time()]

    def spent(self) -> tuple[float, float]:
        """(wall, CPU) seconds until now, which is where the next run of this process begins."""
        _FROM[:] = [time.perf_counter(), time.process_time()]
        return _FROM[0] - self._wall, _FROM[1] - self._cpu


class StageChanged(RuntimeError):
    """A stage was finished with other inputs: its outputs are not overwritten."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage: what `work` returned, and what it cost, over all processes that worked on it.

    `earlier` is what of that cost (wall and CPU seconds) was spent by processes that have ended.
    """

    outputs: Any
    seconds: float
    cpu_seconds: float
    skipped: bool
    earlier: tuple[float, float]


def stage(folder: Path, inputs: Any, work: Callable[[], Any]) -> Done:
    """Runs `work` once: its return value (plain JSON) stands in `folder`'s manifest, beside the digest of `inputs`.

    All ranks call `work`; rank 0 decides whether to skip, and its return value is stored. What a process that was cut
    off spent is counted, to within `TICK_S` where it was killed; time that an inner stage takes is the inner stage's
    alone. StageChanged when the folder was finished with other inputs.
    """
    wanted = digest(inputs)
    if (found := ranks.shared(lambda: _finished(folder, wanted))) is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    earlier = ranks.shared(lambda: _spent(folder))
    with _metered(folder) as meter:
        outputs = work()
        wall, cpu = meter.read()
    seconds, cpu_seconds = earlier[0] + wall, earlier[1] + sum(ranks.gathered(cpu))
    told = {
        "inputs": wanted,
        "outputs": outputs,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
    }
    outputs = ranks.shared(lambda: _written(folder, told))
    return Done(outputs, seconds, cpu_seconds, False, earlier)


def finished(folder: Path) -> Done | None:
    """A stage that was finished before, whatever its inputs were; None of one that is still to do. For rank 0."""
    if (found := manifest(folder)) is None:
        return None
    spent = found["seconds"], found["cpu_seconds"]
    return Done(found["outputs"], *spent, True, spent)


def _finished(folder: Path, wanted: str) -> Done | None:
    """The same; StageChanged where it was finished with other inputs."""
    found = manifest(folder)
    if found is not None and found["inputs"] != wanted:
        raise StageChanged(
            f"{folder} was made from other inputs; start a new run, or remove that folder to make it again"
        )
    return finished(folder)


class _Meter:
    """Counts the (wall, CPU) seconds of this process while it runs."""

    def __init__(self) -> None:
        self._spent, self._since = (0.0, 0.0), _now()
        self._running = True

    def read(self) -> tuple[float, float]:
        """What has been counted."""
        if not self._running:
            return self._spent
        return self._spent[0] + _now()[0] - self._since[0], self._spent[1] + _now()[1] - self._since[1]

    def run(self, on: bool) -> None:
        """Goes on, or stands still."""
        self._spent, self._since, self._running = self.read(), _now(), on


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


_METERS: list[_Meter] = []  # of the stages that are at work, the outermost first; the last one runs


@contextmanager
def _metered(folder: Path) -> Iterator[_Meter]:
    """Counts the seconds of this process from now on, and keeps them in a file of `folder` meanwhile. The meter of the
    stage around this one stands still."""
    meter, path, over = _Meter(), folder / f"{SPENT}{ranks.rank()}-{time.time_ns()}", Event()

    def note() -> None:
        draft = path.with_name(f"{path.name}.tmp")
        with suppress(OSError):  # a full disk is told by the work
            draft.write_text(json.dumps(meter.read()))
            draft.rename(path)

    def tick() -> None:
        while not over.wait(TICK_S):
            note()

    ticking = Thread(target=tick, name=f"time of {folder.name}", daemon=True)
    ticking.start()
    for outer in _METERS[-1:]:
        outer.run(False)
    _METERS.append(meter)
    try:
        yield meter
    finally:
        _METERS.pop()
        for outer in _METERS[-1:]:
            outer.run(True)
        over.set()
        ticking.join()
        note()


def _spent(folder: Path) -> tuple[float, float]:
    """The (wall, CPU) seconds that processes which were cut off spent on the stage: of all ranks, the wall seconds of
    rank 0. A note that was torn with the machine's power counts nothing."""
    found = {path: _note(path) for path in folder.glob(f"{SPENT}*") if path.suffix != ".tmp"}
    return sum(each[0] for path, each in found.items() if path.name.startswith(f"{SPENT}0-")), sum(
        each[1] for each in found.values()
    )


def _note(path: Path) -> tuple[float, float]:
    try:
        wall, cpu = map(float, read_json(path))
    except (InputError, TypeError, ValueError):
        return 0.0, 0.0
    return (wall, cpu) if isfinite(wall) and isfinite(cpu) else (0.0, 0.0)


def _written(folder: Path, told: dict[str, Any]) -> Any:
    write_json(folder / MANIFEST, told | {"records": sealed(folder)})
    for spent in folder.glob(f"{SPENT}*"):
        spent.unlink()
    return json.loads(json.dumps(told["outputs"]))
