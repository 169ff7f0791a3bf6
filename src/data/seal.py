"""The manifest of a finished stage, `stage.json`: its inputs and outputs, and the seal on its records (number of lines
and digest of each file)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..system.files import InputError, digest, read_json

MANIFEST = "stage.json"
SCORES = "scores.jsonl"
FIELDS: dict[str, tuple[type, ...]] = {"inputs": (str,), "seconds": (int, float), "cpu_seconds": (int, float)}

Seal: TypeAlias = dict[str, dict[str, Any]]  # file name -> lines, digest


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage; None if the stage is not finished. InputError if the file is no manifest."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"{error}: remove {folder} and resume, which repeats the stage") from None
    if not isinstance(found, dict) or not _known(found):
        raise InputError(f"{path} is no manifest of a stage: remove {folder} and resume, which repeats the stage")
    return dict(found)


def _known(found: Mapping[str, Any]) -> bool:
    """Whether a manifest has its fields; `parts` came after parley 0.1.0."""
    parts = found.get("parts", {})
    return (
        "outputs" in found
        and all(isinstance(found.get(key), kind) for key, kind in FIELDS.items())
        and isinstance(parts, dict)
        and all(isinstance(seconds, int | float) for seconds in parts.values())
    )


def rounds(run: Path) -> list[str]:
    """The finished rounds of self-play in the folder of a run, as stage names in order."""
    found = [*run.glob(f"iter_*/play/{MANIFEST}"), *run.glob(f"iter_*/play/r*/{MANIFEST}")]
    return sorted(str(path.parent.relative_to(run)) for path in found)


def sealed(folder: Path) -> Seal:
    """Computes the seal on the records in `folder`: shards of episodes, and scores. Files are read in blocks."""
    names = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal() or path.name == SCORES]
    return {path.name: {"lines": _lines(path), "digest": digest(path)} for path in sorted(names)}


def verify(folder: Path) -> None:
    """InputError names the first record that has changed since the stage was finished.

    An unfinished stage has no seal, and neither has one of parley 0.1.0.
    """
    stated = (manifest(folder) or {}).get("records")
    if stated is None:
        return
    found = sealed(folder)
    for name in sorted({*stated, *found} if isinstance(stated, Mapping) else found):
        if not isinstance(stated, Mapping) or stated.get(name) != found.get(name):
            raise InputError(
                f"{folder / name} {_change(found.get(name), stated, name)} since the stage was finished: restore the "
                f"file, or remove {folder} (with the iteration's learn/, where it played for that) and resume, which "
                f"plays it again"
            )


def _change(now: Mapping[str, Any] | None, stated: Any, name: str) -> str:
    then = stated.get(name) if isinstance(stated, Mapping) else None
    if now is None:
        return "was removed"
    if then is None:
        return "was added"
    lines = then.get("lines") if isinstance(then, Mapping) else None
    return "was changed" if lines == now["lines"] else f"was changed ({now['lines']} lines, {lines} then)"


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
