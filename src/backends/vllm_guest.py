"""vLLM as a guest of the process: what it changes while it builds, loads or computes is put back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def apart() -> Iterator[None]:
    """Around what vLLM does while it builds or loads: threads, randomness and the process group are put back."""
    import torch

    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        with _randomness(), _alone():
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


@contextmanager
def _randomness() -> Iterator[None]:
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


@contextmanager
def unseen(draws: bool) -> Iterator[None]:
    """Around a step that may draw from torch's global randomness."""
    import torch

    if not draws:
        yield
        return
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


@contextmanager
def eagerly(eager: bool) -> Iterator[None]:
    """Without compilation, which vLLM otherwise does for a few small functions even in eager mode (seconds each)."""
    import torch

    if not eager:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _alone() -> Iterator[None]:
    """Hides the run's process group, so that the engine makes its groups of one, whatever the other ranks do.

    With the run's group as its world, building an engine would be a collective: a rank that has no match to play would
    keep the others waiting. Names of groups are counted in each process, and ranks that count apart never meet; so the
    engine's groups are counted from a number far away.
    """
    from torch import distributed
    from torch.distributed import distributed_c10d as c10d

    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield
        return
    whole, number = c10d._world.default_pg, c10d._world.group_count
    try:
        c10d._world.group_count = _Hidden.count
        if _Hidden.group is None:
            c10d._update_default_pg(None)
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
            _Hidden.group = c10d._world.default_pg
        else:
            c10d._update_default_pg(_Hidden.group)
        yield
    finally:
        _Hidden.count = c10d._world.group_count
        c10d._world.group_count = number
        c10d._update_default_pg(whole)


class _Hidden:
    """The group of one that this process's engines share, and the number of the next group."""

    group: Any = None
    count = 1_000_000
