"""Resumable stages: each writes its outputs into its folder and then a manifest; a stage with a matching manifest is
skipped.

A kill at any moment loses no finished stage. An interrupted stage is called again on the same folder and resumes (play:
from the stored episodes; learn: from its last checkpoint).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ..data.seal import MANIFEST, manifest, sealed
from ..system import ranks
from ..system.files import InputError, digest, read_json, write_json

SPENT = ".spent-"  # prefix of the files with a process's time spent on a stage: rank, then start time
TICK_S = 5.0  # seconds between two updates of that file

_FROM = [time.perf_counter() - time.process_time(), 0.0]  # the first run of a process also pays for its imports


class Clock:
    """Wall-clock and CPU seconds of one run, from the start of the process or the end of the previous run in it."""

    def __init__(self) -> None:
        self._wall, self._cpu = _FROM
        _FROM[:] = [time.perf_counter(), time.process_time()]

    def spent(self) -> tuple[float, float]:
        """(wall, CPU) seconds until now; the next run of this process starts from here."""
        _FROM[:] = [time.perf_counter(), time.process_time()]
        return _FROM[0] - self._wall, _FROM[1] - self._cpu


class StageChanged(RuntimeError):
    """A stage was finished with other inputs: its outputs are not overwritten."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage: the result of `work`, and its cost, summed over all processes.

    `earlier` is the part of the cost (wall and CPU seconds) of earlier processes. `parts` are wall seconds of named
    parts of the work (see `part`), contained in `seconds`.
    """

    outputs: Any
    seconds: float
    cpu_seconds: float
    skipped: bool
    earlier: tuple[float, float]
    parts: Mapping[str, float] = field(default_factory=dict)


def stage(folder: Path, inputs: Any, work: Callable[[], Any]) -> Done:
    """Runs `work` once and stores its return value (plain JSON) in the manifest of `folder`, with the digest of
    `inputs`.

    All ranks call `work`; rank 0 decides whether to skip, and its return value is stored. The time of interrupted
    processes counts, to within `TICK_S` seconds for killed ones; the time of an inner stage counts only there.
    StageChanged if the folder was finished with other inputs.
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
        "parts": {name: round(spent, 3) for name, spent in meter.parts.items()},
    }
    outputs = ranks.shared(lambda: _written(folder, told))
    return Done(outputs, seconds, cpu_seconds, False, earlier, told["parts"])


@contextmanager
def part(name: str) -> Iterator[None]:
    """Counts its wall seconds in the innermost open stage of this process as those of the part `name`. Seconds of
    interrupted processes count only in the whole."""
    meter, started = _METERS[-1], time.perf_counter()
    try:
        yield
    finally:
        meter.parts[name] = meter.parts.get(name, 0.0) + time.perf_counter() - started


def finished(folder: Path) -> Done | None:
    """A finished stage, with any inputs; None if it is not finished. For rank 0."""
    if (found := manifest(folder)) is None:
        return None
    spent = found["seconds"], found["cpu_seconds"]
    return Done(found["outputs"], *spent, True, spent, found.get("parts", {}))


def _finished(folder: Path, wanted: str) -> Done | None:
    """The same; StageChanged if it was finished with other inputs."""
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
        self.parts: dict[str, float] = {}  # wall seconds by name

    def read(self) -> tuple[float, float]:
        """The counted (wall, CPU) seconds."""
        if not self._running:
            return self._spent
        wall, cpu = _now()
        return self._spent[0] + wall - self._since[0], self._spent[1] + cpu - self._since[1]

    def run(self, on: bool) -> None:
        """Resumes or pauses."""
        self._spent, self._since, self._running = self.read(), _now(), on


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


_METERS: list[_Meter] = []  # of the open stages, the outermost first; only the last one runs


@contextmanager
def _metered(folder: Path) -> Iterator[_Meter]:
    """Counts the seconds of this process, and saves them to a file in `folder`. Pauses the meter of the enclosing
    stage."""
    meter, path, over = _Meter(), folder / f"{SPENT}{ranks.rank()}-{time.time_ns()}", Event()

    def note() -> None:
        draft = path.with_name(f"{path.name}.tmp")
        with suppress(OSError):  # a full disk is reported by the work
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
    """The (wall, CPU) seconds of interrupted processes on the stage: CPU of all ranks, wall of rank 0. A file torn by a
    power failure counts 0."""
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
