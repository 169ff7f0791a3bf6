"""The job of a command, as every rank does it: alone, or in a process group."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from ..system import ranks
from .nodes import RESERVED

GONE = 76  # exit code of a rank that stops because another one failed


@dataclass(frozen=True, slots=True)
class Job:
    """The job that all ranks run. `argv` is the user's command, for the run's manifest."""

    config: DictConfig
    out: Path
    argv: tuple[str, ...]

    def text(self) -> str:
        """The job as JSON. The config stays unresolved, so that values from the environment are not stored."""
        return json.dumps({"config": OmegaConf.to_yaml(self.config), "out": str(self.out), "argv": self.argv})

    @staticmethod
    def of(text: str) -> Job:
        """Reads the result of `text`."""
        data = json.loads(text)
        config = OmegaConf.create(data["config"])
        assert isinstance(config, DictConfig)
        return Job(config, Path(data["out"]), tuple(data["argv"]))


def task(job: Job) -> float | None:
    """The task itself, in this process."""
    node = job.config.task
    arguments = {str(key): value for key, value in node.items() if key not in RESERVED}
    found: float | None = get_method(node._target_)(job.config, job.out, **arguments)
    return found


def grouped(job: Job, number: int) -> float | None:
    """The task as one rank of the process group number `number`."""
    from torch.distributed import PrefixStore

    if ranks.rank():
        _hush()
    hardware = job.config.hardware
    ranks.join(hardware.accelerator, PrefixStore(f"group/{number}", store()), hardware.strategy == "fsdp_offload")
    with ranks.work():
        figure = task(job)
    ranks.leave()
    return figure


def _hush() -> None:
    """Silences the standard output of all ranks except 0; errors are still printed."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


@cache
def store() -> Any:
    """The key-value store of MASTER_ADDR and MASTER_PORT: the launcher's, or else rank 0's own."""
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous("env://", ranks.rank(), ranks.world()))
    store.set_timeout(ranks.PATIENCE)
    return store
