"""Resumable stages: each writes its outputs into its folder and then a manifest; a stage whose manifest matches is skipped.

Killing the process at any moment loses no finished stage. A stage that was cut off is called again on the same folder
and goes on from what it finds there (play: from the episodes that are stored; learn: from its last checkpoint).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ranks
from .files import digest, write_json

MANIFEST = "stage.json"


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
    """A finished stage: what `work` returned, and what it cost (over all processes that worked on it)."""

    outputs: Any
    seconds: float
    cpu_seconds: float
    skipped: bool


def stage(folder: Path, inputs: Any, work: Callable[[], Any]) -> Done:
    """Runs `work` once: its return value (plain JSON) stands in `folder`'s manifest, beside the digest of `inputs`.

    Every rank works; rank 0 decides whether for all of them, and its return value is the one that counts.
    StageChanged when the folder was finished with other inputs.
    """
    path, wanted = folder / MANIFEST, digest(inputs)
    if (manifest := ranks.shared(lambda: _finished(path, wanted))) is not None:
        return Done(manifest["outputs"], manifest["seconds"], manifest["cpu_seconds"], True)
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = work()
    seconds, cpu_seconds = time.perf_counter() - wall, sum(ranks.gathered(time.process_time() - cpu))
    manifest = {"inputs": wanted, "outputs": outputs, "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
    outputs = ranks.shared(lambda: _written(path, manifest))
    return Done(outputs, seconds, cpu_seconds, False)


def _finished(path: Path, wanted: str) -> dict[str, Any] | None:
    """The manifest of a finished stage; None of one that is still to do."""
    if not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest["inputs"] != wanted:
        raise StageChanged(f"{path.parent} was made from other inputs; start a new run, or remove that folder to make it again")
    return manifest


def _written(path: Path, manifest: dict[str, Any]) -> Any:
    write_json(path, manifest)
    return json.loads(json.dumps(manifest["outputs"]))
