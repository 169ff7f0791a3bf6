"""What jobs of one sweep begin from alike is made once: demonstrations, the base, the imitation.

The first job that finishes such a stage notes it in `.shared/` of the sweep's folder, under a digest of all that the
stage depends on. A later job with the same digest takes the stage's files as hard links (as copies where the disk has
none). Jobs that run at the same time may both make it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..data.seal import MANIFEST, manifest
from ..system.files import InputError, write_json, write_text

NOTES = ".shared"
SWEEP = "multirun.yaml"  # which Hydra leaves in a sweep's folder


def sweep_of(run: Path) -> Path | None:
    """The folder of the sweep that the run is a job of; None of a run by itself."""
    return run.parent if (run.parent / SWEEP).is_file() else None


def lend(sweep: Path, key: str, stage: Path) -> None:
    """Notes that the finished `stage` is what `key` stands for, unless another one is that still stands."""
    if _lent(sweep, key) is None:
        write_text(sweep / NOTES / key, str(stage.relative_to(sweep)))


def borrow(sweep: Path, key: str, stage: Path, inputs: str) -> Path | None:
    """Makes `stage` from the one that another job lent under `key`, with `inputs` in its manifest; returns that one.
    None where there is none, or the stage has been begun already."""
    if stage.exists() or (lent := _lent(sweep, key)) is None:
        return None
    source, told = lent
    draft = stage.with_name(f".{stage.name}.borrowed")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, copy_function=_linked, ignore=shutil.ignore_patterns(MANIFEST), symlinks=True)
    except OSError:  # the other job is at work on its files: make our own
        shutil.rmtree(draft, ignore_errors=True)
        return None
    write_json(draft / MANIFEST, {**told, "inputs": inputs})
    draft.rename(stage)
    return source


def _lent(sweep: Path, key: str) -> tuple[Path, dict[str, Any]] | None:
    """The finished stage that is noted under `key`, and its manifest; None where there is none, or it is gone or
    damaged since."""
    note = sweep / NOTES / key
    if not note.is_file():
        return None
    source = (sweep / note.read_text(encoding="utf-8")).resolve()
    try:
        told = manifest(source) if source.is_relative_to(sweep.resolve()) else None
    except InputError:
        return None
    return None if told is None else (source, told)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
