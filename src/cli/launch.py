"""One process per device, before any stage: started here, or adopted from torchrun and SLURM.

Started (`processes.py`): the command's own process composes the config, writes it to a file in the run directory and
supervises one process per device.

Adopted: rank 0 composes the config, the other ranks wait for it. So every rank has the same run directory, and a
sweep's jobs run one after the other.

Either way RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, and a default process group exists before
anything else is built.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

from hydra.utils import get_method
from omegaconf import DictConfig

from ..run.config import ConfigError, use_threads
from ..system import ranks
from .job import Job, grouped, store, task
from .processes import TERM_S, start


def run(config: DictConfig, out: Path) -> float | None:
    """Runs the task of `config` in as many processes as its hardware profile has devices; returns the task's figure.

    ConfigError if the number of processes differs from the profile's, or they cannot be started. SystemExit with the
    code of a failed process, whose error has been printed.
    """
    adopt()
    job, hardware = Job(config, out, tuple(sys.argv)), config.hardware
    together = getattr(get_method(config.task._target_), "collective", False)
    wanted = hardware.devices * hardware.nodes if together else 1
    if not together and ranks.rank():
        return None
    if together and ranks.world() != wanted and "WORLD_SIZE" in os.environ:
        raise ConfigError(
            f"hardware={hardware.name} is for {wanted} processes ({hardware.nodes} × {hardware.devices} devices), and "
            f"WORLD_SIZE is {ranks.world()}: start as many (torchrun --nnodes={hardware.nodes} "
            f"--nproc-per-node={hardware.devices} -m parley …), or choose a profile that fits"
        )
    if wanted == 1:
        return task(job)
    if ranks.world() > 1:
        return _member(job)
    if hardware.nodes > 1:
        raise ConfigError(
            f"hardware={hardware.name} needs {hardware.nodes} machines, where parley cannot start processes by "
            f"itself: run the command on each under torchrun (--nnodes={hardware.nodes} "
            f"--nproc-per-node={hardware.devices} -m parley …), or in one step of SLURM "
            f"(srun --nodes={hardware.nodes} --ntasks-per-node={hardware.devices} parley …)"
        )
    return start(job, hardware.devices)


# --- adopted from torchrun or SLURM ----------------------------------------------------------------------------------

_jobs = count()


def adopt() -> None:
    """Sets torchrun's environment variables for a SLURM step with several tasks, unless they are set already.

    A batch script is no step: a command in it without `srun` is a single process.
    """
    tasks, step = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), os.environ.get("SLURM_STEP_ID", "0")
    if tasks == 1 or "WORLD_SIZE" in os.environ:
        return
    port = 20_000 + (int(os.environ.get("SLURM_JOB_ID", 0)) * 97 + int(step)) % 10_000
    said = {"RANK": os.environ["SLURM_PROCID"], "LOCAL_RANK": os.environ["SLURM_LOCALID"], "WORLD_SIZE": str(tasks)}
    os.environ |= said
    os.environ.setdefault("MASTER_ADDR", first_host(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")))
    os.environ.setdefault("MASTER_PORT", str(port))


def first_host(nodes: str) -> str:
    """The first of the machines that SLURM lists as `gpu[03-05,9],cpu1`: gpu03."""
    name = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in name.groups()) if name else nodes


def _member(job: Job) -> float | None:
    """The task as one of several ranks started together."""
    number = next(_jobs)
    if ranks.rank() == 0:
        store().set(f"job/{number}", job.text())
    return grouped(job, number)


def follows() -> bool:
    """Whether this process is a rank that follows rank 0."""
    adopt()
    return ranks.rank() > 0


def follow() -> None:
    """Joins every job of rank 0, until there are no more."""
    import torch

    while text := _told(number := next(_jobs)):
        job = Job.of(text)
        sys.argv = list(job.argv)
        use_threads(job.config)
        torch.set_num_threads(job.config.hardware.threads)
        grouped(job, number)
    store().set(f"left/{ranks.rank()}", "")


def _told(number: int) -> str:
    with ranks.others():
        text: str = store().get(f"job/{number}").decode()
    return text


@contextmanager
def leading() -> Iterator[None]:
    """After the block, even on errors, tells the following ranks that there are no more jobs, and waits briefly for
    them."""
    try:
        yield
    finally:
        if ranks.world() > 1 and ranks.rank() == 0:
            store().set(f"job/{next(_jobs)}", "")
            with suppress(RuntimeError):  # a rank may have ended already
                store().wait([f"left/{each}" for each in range(1, ranks.world())], timedelta(seconds=TERM_S))
