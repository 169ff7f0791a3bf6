"""The processes of one run (ranks, numbered as by torchrun) and their collectives.

With one process this never imports torch. `parley.cli.launch` starts or adopts the processes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Task = TypeVar("Task", bound=Callable[..., Any])
PATIENCE = timedelta(days=30)  # one rank may play for hours while the others wait; the launcher detects dead ranks
COLLECTIVE = timedelta(hours=1)  # time limit of one collective in a training step


def rank() -> int:
    """The number of this process, 0 to world() - 1."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process on its machine, and so of its device."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    """Waits until every rank has called it."""
    gathered(None)


class Elsewhere(RuntimeError):
    """Another rank has failed or died. That rank reports the reason."""


def gathered(value: T) -> list[T]:
    """All-gather: the values of all ranks, by rank. They are pickled, between the processes of one run only.

    Elsewhere if another rank is gone.
    """
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world()
    with others():
        distributed.all_gather_object(values, value, group=_group())
    return values


def shared(make: Callable[[], T]) -> T:
    """Calls `make` on rank 0 and broadcasts the result, pickled. `make` must not use collectives. If it raises, rank 0
    gets its error, and the other ranks Elsewhere."""
    if world() == 1:
        return make()
    from torch import distributed

    told: list[Any] = [None, None]  # the value; what went wrong
    error: Exception | None = None
    if rank() == 0:
        try:
            told[0] = make()
        except Exception as caught:  # broadcast first, so that the others do not wait for ever
            error, told[1] = caught, f"{type(caught).__name__}: {caught}"
    with others():
        distributed.broadcast_object_list(told, src=0, group=_group())
    if error is not None:
        raise error
    if told[1] is not None:
        raise Elsewhere(f"rank 0 failed: {told[1]}")
    value: T = told[0]
    return value


def summed(value: Tensor) -> Tensor:
    """All-reduce: the sum over ranks of CPU tensors of equal shape, bit-identical on all ranks. Elsewhere if another
    rank is gone."""
    if world() == 1:
        return value
    from torch import distributed

    total = value.clone()
    with others():
        distributed.all_reduce(total, group=_group())
    return total


def collective(task: Task) -> Task:
    """Marks a task in which every rank takes part. Other tasks run in one process, whatever the hardware profile."""
    task.collective = True  # type: ignore[attr-defined]
    return task


# --- process groups --------------------------------------------------------------------------------------------------

_meeting: list[Any] = []


def join(accelerator: str, store: Any, offload: bool = False) -> None:
    """Makes the run's default process group over `store`: gloo for `cpu`, nccl for `gpu` (and sets the device). With
    `offload` the ranks of GPUs also have gloo, for tensors in host memory."""
    import torch
    from torch import distributed

    if accelerator == "gpu":
        torch.cuda.set_device(
            local_rank() % torch.cuda.device_count()
        )  # a scheduler may show each process its own device only
    backend = ("cpu:gloo,cuda:nccl" if offload else "nccl") if accelerator == "gpu" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank(), world_size=world(), timeout=COLLECTIVE)
    _group()


def leave() -> None:
    """Destroys the groups once every rank has called it."""
    from torch import distributed

    barrier()
    gc.collect()  # a remaining reference to a group would keep its threads alive beyond the interpreter's end
    distributed.destroy_process_group()
    _meeting.clear()


@contextmanager
def others() -> Iterator[None]:
    """Turns errors of a collective into Elsewhere: they mean that a rank is gone."""
    try:
        yield
    except RuntimeError as error:
        raise Elsewhere(f"another rank is gone ({str(error).splitlines()[0]})") from error


@contextmanager
def work() -> Iterator[None]:
    """The same around work with its own collectives, such as a training step: Elsewhere if one failed."""
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
            raise Elsewhere(f"another rank is gone ({str(error).splitlines()[0]})") from error
        raise


def _group() -> Any:
    """A gloo group of all ranks with practically no time limit, beside the group used for training."""
    if not _meeting:
        from torch import distributed

        _meeting.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _meeting[0]
