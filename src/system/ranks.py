"""The processes of one run, as torchrun counts them: which one this is, and how they meet.

A run of one process never imports torch for it. The processes are started or adopted by `parley.cli.launch`.
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
PATIENCE = timedelta(days=30)  # one rank may play for hours while the others wait; who notices the dead is the launcher
COLLECTIVE = timedelta(hours=1)  # one collective of a training step


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


class Elsewhere(RuntimeError):
    """Another rank has failed, or is gone. It says itself why."""


def gathered(value: T) -> list[T]:
    """What every rank gave, by rank, on all ranks. Values travel pickled, between the processes of one run only.

    Elsewhere when another rank is gone.
    """
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world()
    with others():
        distributed.all_gather_object(values, value, group=_group())
    return values


def shared(make: Callable[[], T]) -> T:
    """What rank 0 makes, on all ranks, pickled on its way; `make` meets nobody. Where it fails, it fails as it does on
    rank 0, and with Elsewhere on the others."""
    if world() == 1:
        return make()
    from torch import distributed

    told: list[Any] = [None, None]  # the value; what went wrong
    error: Exception | None = None
    if rank() == 0:
        try:
            told[0] = make()
        except Exception as caught:  # told to the others first, so that they do not wait for ever
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
    """The sum over ranks of tensors of one shape on the CPU, the same bits on all ranks. Elsewhere when another rank is
    gone."""
    if world() == 1:
        return value
    from torch import distributed

    total = value.clone()
    with others():
        distributed.all_reduce(total, group=_group())
    return total


def collective(task: Task) -> Task:
    """Marks a task in which every rank takes part. Any other runs in one process, whatever the hardware profile."""
    task.collective = True  # type: ignore[attr-defined]
    return task


# --- the groups in which they meet -----------------------------------------------------------------------------------

_meeting: list[Any] = []


def join(accelerator: str, store: Any, offload: bool = False) -> None:
    """Makes the default process group of this run, over `store`: gloo for `cpu`, nccl for `gpu`, whose device is set
    here. With `offload` a GPU's ranks pass tensors in host memory by gloo, too."""
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
    """The end of the groups, once everybody has come to it."""
    from torch import distributed

    barrier()
    gc.collect()  # what still holds on to a group would keep its threads beyond the interpreter's end
    distributed.destroy_process_group()
    _meeting.clear()


@contextmanager
def others() -> Iterator[None]:
    """A meeting that breaks down does so because somebody is gone."""
    try:
        yield
    except RuntimeError as error:
        raise Elsewhere(f"another rank is gone ({str(error).splitlines()[0]})") from error


@contextmanager
def work() -> Iterator[None]:
    """Around a task that meets the others in ways of its own (the collectives of a training step): Elsewhere where one
    broke down."""
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
            raise Elsewhere(f"another rank is gone ({str(error).splitlines()[0]})") from error
        raise


def _group() -> Any:
    """A gloo group of all ranks without a time limit worth the name, whatever the training's own group is."""
    if not _meeting:
        from torch import distributed

        _meeting.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _meeting[0]
