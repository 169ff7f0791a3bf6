"""Reads keys from a file `.env` in the working directory, so that none is typed on a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from .files import InputError, read_text

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*")


def load(path: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Adds the `NAME=VALUE` lines of `path` with `wanted` names to the environment, unless they are set already.
    Returns the added names. Blank lines and lines that begin with # are skipped, quotes around a value are removed, and
    nothing is expanded.

    InputError names an invalid line. Does nothing if the file is missing.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise InputError(f"{path}, line {number}: expected NAME=VALUE")  # the line itself may hold a key
        name, value = match[1], match[2]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if wanted(name) and name not in os.environ:
            os.environ[name] = value
            found.append(name)
    return found
