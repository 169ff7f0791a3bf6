"""Measurements in processes of their own, kept as they come: a benchmark that was cut off goes on where it was."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from parley.system.files import digest, read_json, write_json
from peers import Done
from results import revision
from train import resident


@dataclass(frozen=True)
class Kept:
    """Measurements by name, a file each in `folder`. `revisions` are those at which the named ones were made."""

    folder: Path
    revisions: set[str] = field(default_factory=set)

    def __call__(self, name: str, work: Callable[[], Done]) -> tuple[Done, float]:
        """What `work` gave, and its peak memory in MiB; from the file where `name` was measured before."""
        file = self.folder / f"{digest(name)}.json"
        if not file.exists():
            done, mib = measured(work)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, {"name": name, "revision": revision(), "done": asdict(done), "mib": mib})
            print(f"{name}: {done.seconds:.1f} CPU-seconds, {mib:.0f} MiB", flush=True)
        row = read_json(file)
        self.revisions.add(row["revision"])
        done = row["done"]
        return Done(done["seconds"], tuple(map(tuple, done["histories"])), tuple(done["losses"])), row["mib"]


def measured(work: Callable[[], Done]) -> tuple[Done, float]:
    """What `work` gave, and its peak memory in MiB above the imports', in a process of its own with one thread."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_child, (work,))


def _child(work: Callable[[], Done]) -> tuple[Done, float]:
    torch.set_num_threads(1)
    before = resident("VmRSS")
    return work(), resident("VmHWM") - before
