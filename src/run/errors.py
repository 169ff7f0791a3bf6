"""Errors that end a run and are told in one line."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from hydra.errors import InstantiationException

from ..credit import NothingKept
from ..data.replay import ReplayError
from ..play.arena import TooManyFailures
from ..system.files import InputError, Locked
from .config import ConfigError
from .stages import StageChanged

EXPECTED = (InputError, FileNotFoundError, Locked, StageChanged, NothingKept, TooManyFailures, ReplayError)
TOLD = (*EXPECTED, ConfigError, InstantiationException)
"""Errors that the command line shows in one line, without a traceback."""


def in_words(error: BaseException) -> str:
    """An error's message; for a node that cannot be built its key, the reason and the line of code, without Hydra's
    text."""
    cause = error.__cause__
    if not isinstance(error, InstantiationException) or cause is None:
        return str(error)
    if isinstance(cause, EXPECTED):
        return str(cause)
    key = str(error).rpartition("full_key: ")[2]
    at = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{key} cannot be built: {type(cause).__name__}: {cause} ({Path(at.filename).name}, line {at.lineno})"


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk (or a quota) caused an error, possibly wrapped by libraries."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error) or "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
