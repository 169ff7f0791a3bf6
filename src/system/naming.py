"""Finds objects by dotted names, and suggests the nearest name for a wrong one."""

from __future__ import annotations

import difflib
import os
import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def locate(path: Any) -> Any:
    """The object with the dotted name `path`. LookupError names the part that does not exist, and the nearest name."""
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise LookupError(f"must be a dotted name such as parley.games.deal.Deal, got {path!r}")
    parts = path.split(".")
    found, known = None, 0
    while known < len(parts) and (module := _module(".".join(parts[: known + 1]))) is not None:
        found, known = module, known + 1
    if found is None:
        raise LookupError(f"there is no module {parts[0]}{_meant(parts[0])}")
    return _attribute(found, parts[:known], parts[known:])


def _meant(name: str) -> str:
    """The advice for a module that is not found: a file of this folder, which the command `parley` does not look into,
    or a similar name."""
    if os.path.isfile(f"{name}.py") or os.path.isdir(name):  # unlike Path, False for a name too long
        return " on Python's path: this folder has it, so begin with python -m parley"
    return nearest(name, ("parley",))


def _module(name: str) -> ModuleType | None:
    """The module `name`; None if there is none. LookupError if it exists but cannot be imported."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise LookupError(f"{name} needs the module {error.name}, which is not installed") from error
    except ImportError as error:
        raise LookupError(f"{name} cannot be imported: {error}") from error


def _attribute(found: Any, done: Sequence[str], rest: Sequence[str]) -> Any:
    for number, part in enumerate(rest):
        if not hasattr(found, part):
            modules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
            names = [name for name in dir(found) if not name.startswith("_")] + modules
            raise LookupError(f"{'.'.join([*done, *rest[:number]])} has no {part}{nearest(part, names)}")
        found = getattr(found, part)
    return found


def nearest(name: Any, names: Iterable[str]) -> str:
    """ "; did you mean …?", or the whole list if that is short, or nothing."""
    names = sorted(set(names))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there is {', '.join(names)}" if 0 < len(names) <= 12 else ""


def hub_id(path: str | Path) -> str | None:
    """ORG/NAME of a folder in the Hugging Face cache; None for any other."""
    for part in Path(path).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/", 1)
    return None
