"""vLLM as a guest of the process: what it changes while it builds, loads or computes is put back as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ..system import ranks


@contextmanager
def apart(together: int = 1) -> Iterator[None]:
    """Around what vLLM does while it builds or loads: threads, randomness and the process group are put back.
    `together` ranks share the engine."""
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
def _among(together: int) -> Iterator[None]:
    """Hides the run's process group behind one of the ranks that share an engine, mostly this one alone.

    With the run's group as its world, building an engine would be a collective of all: a rank that has no match to play
    would keep the others waiting. Names of groups are counted in each process, and ranks that count apart never meet;
    so the engine's groups are counted from a number far away.
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
    """Gives vLLM the place in the engine's group instead of the run's rank. Its CPU build names shared memory after the
    end of the address."""
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher as Executor

    own = Executor._distributed_args
    Executor._distributed_args = lambda _: (f"env://:{name}", place, ranks.local_rank())
    try:
        yield
    finally:
        Executor._distributed_args = own
