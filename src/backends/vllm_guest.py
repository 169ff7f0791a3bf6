"""Undoes vLLM's changes to the process (threads, randomness, process groups) after it builds, loads or computes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ..system import ranks


@contextmanager
def apart(together: int = 1) -> Iterator[None]:
    """Restores threads, randomness and the process group after vLLM builds or loads in the block. `together` ranks
    share the engine."""
    import torch

    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        with _randomness(), _among(together):
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
    """Restores torch's global generator after a step that may draw from it."""
    import torch

    if not draws:
        yield
        return
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


@contextmanager
def eagerly(eager: bool) -> Iterator[None]:
    """Turns compilation off; vLLM compiles some small functions even in eager mode (seconds each)."""
    import torch

    if not eager:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _among(together: int) -> Iterator[None]:
    """Replaces the run's process group by a group of the ranks that share an engine, usually only this one.

    With the run's group as its world, building an engine would be a collective of all ranks, and a rank without matches
    would block the others. Group names are numbered per process, and ranks with different numbers never connect; so the
    engine's groups use numbers far from the run's.
    """
    from torch import distributed
    from torch.distributed import distributed_c10d as c10d

    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield
        return
    whole, number = c10d._world.default_pg, c10d._world.group_count
    try:
        c10d._world.group_count = _Hidden.count
        if together not in _Hidden.groups:
            _Hidden.groups[together] = _meet(together)
        group, told = _Hidden.groups[together]
        c10d._update_default_pg(group)
        with _placed(*told):
            yield
    finally:
        _Hidden.count = c10d._world.group_count
        c10d._world.group_count = number
        c10d._update_default_pg(whole)


class _Hidden:
    """Process groups of this process's engines: size -> (group, its name, this rank's place); the next number."""

    groups: ClassVar[dict[int, tuple[Any, tuple[str, int]]]] = {}
    count = 1_000_000


def _meet(together: int) -> tuple[Any, tuple[str, int]]:
    """Makes the group of this rank and its neighbours. Returns it with a unique name and this rank's place in it."""
    from torch import distributed
    from torch.distributed import distributed_c10d as c10d

    number, place = divmod(ranks.rank(), together)
    store: Any = distributed.HashStore()
    if together > 1:
        store = distributed.PrefixStore(f"engines/{number}", c10d._get_default_store())
    if place == 0:
        store.set("name", f"parley-{os.getpid()}-{number}")
    name = store.get("name").decode()
    c10d._update_default_pg(None)
    distributed.init_process_group("gloo", store=store, rank=place, world_size=together)
    return c10d._world.default_pg, (name, place)


@contextmanager
def _placed(name: str, place: int) -> Iterator[None]:
    """Gives vLLM the rank in the engine's group instead of the run's. Its CPU build names shared memory after the end
    of the address."""
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher as Executor

    own = Executor._distributed_args
    Executor._distributed_args = lambda _: (f"env://:{name}", place, ranks.local_rank())
    try:
        yield
    finally:
        Executor._distributed_args = own
