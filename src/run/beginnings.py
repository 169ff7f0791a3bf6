"""Shares stages among the jobs of a sweep: demonstrations, the base model and imitation run once.

The first job that finishes such a stage records it in `.shared/` of the sweep's folder, under a digest of all its
inputs. A later job with the same digest hard-links the stage's files (or copies them if the file system has no hard
links). Jobs that run at the same time may both run the stage.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..data.seal import MANIFEST, manifest
from ..system.files import InputError, write_json, write_text

NOTES = ".shared"
SWEEP = "multirun.yaml"  # written by Hydra into a sweep's folder


def sweep_of(run: Path) -> Path | None:
    """The folder of the run's sweep; None for a single run."""
    return run.parent if (run.parent / SWEEP).is_file() else None


def lend(sweep: Path, key: str, stage: Path) -> None:
    """Notes that the finished `stage` is what `key` stands for, unless another one is that still stands."""
    if _lent(sweep, key) is None:
        write_text(sweep / NOTES / key, str(stage.relative_to(sweep)))


def borrow(sweep: Path, key: str, stage: Path, inputs: str) -> Path | None:
    """Creates `stage` from the one that another job recorded under `key`, with `inputs` in its manifest; returns the
    source. None if there is none, or the stage was begun already."""
    if stage.exists() or (lent := _lent(sweep, key)) is None:
        return None
    source, told = lent
    draft = stage.with_name(f".{stage.name}.borrowed")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, copy_function=_linked, ignore=shutil.ignore_patterns(MANIFEST), symlinks=True)
    except OSError:  # the other job is changing its files: run the stage here
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
