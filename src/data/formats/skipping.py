"""The warning about rows that a reader leaves out."""

from __future__ import annotations

import warnings
from pathlib import Path


def skipped(path: str | Path, count: int, rows: int, why: str = "an empty answer") -> None:
    """Warns, in one line, that `count` of a file's `rows` are left out; silent if there are none."""
    if count:
        warnings.warn(f"{path}: {count} of {rows} rows are left out ({why})", stacklevel=2)
