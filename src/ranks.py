"""The processes of one run, as torchrun counts them: which one this is, and how they meet.

A run of one process never imports torch for it. The processes are started or adopted by `parley.launch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # one rank may play for hours while the others wait; who notices the dead is the launcher


def rank() -> int:
    """The number of this process, 0 to world() - 1."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process on its machine, which is that of its device."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    """Waits until every rank is here."""
    gathered(None)


def gathered(value: T) -> list[T]:
    """What every rank gave, by rank, on all ranks. Values travel pickled, between the processes of one run only."""
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value, group=_group())
    return values


def shared(make: Callable[[], T]) -> T:
    """What rank 0 makes, on all ranks; where it fails, all fail alike."""
    if world() == 1:
        return make()
    value: Any = None
    error: Exception | None = None
    if rank() == 0:
        try:
            value = make()
        except Exception as caught:  # told to the others first, so that they do not wait for ever
            error = caught
    value, error = gathered((value, error))[0]
    if error is not None:
        raise error
    return value


_meeting: list[Any] = []


def _group() -> Any:
    """A gloo group of all ranks without a time limit worth the name, whatever the training's own group is."""
    if not _meeting:
        from torch import distributed

        _meeting.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _meeting[0]
