"""Runs a function in one or several processes, as a launcher would start them; results go through files."""

import gc
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")  # whose server imports once for all
CONTEXT.set_forkserver_preload(
    ["processes", "parley.learners.lightning", "transformers.models.llama.modeling_llama", "peft", "streams"]
)
LIMIT_S = 1500  # of a hang: far above what a busy machine takes, below the limit of pytest


def together(world: int, call: Any, *args: Any) -> list[int]:
    """The exit codes of `world` processes that each call `call(*args)`; TimeoutError when one does not end in time."""
    meeting = Path(args[0]) / f"meeting_{os.urandom(4).hex()}"
    started = [
        CONTEXT.Process(target=_main, args=(rank, world, str(meeting), call, args), daemon=True)
        for rank in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(LIMIT_S)
    alive = [process for process in started if process.exitcode is None]
    for process in alive:
        process.kill()
    if alive:
        raise TimeoutError(f"{len(alive)} of {world} processes did not end in {LIMIT_S} s")
    return [process.exitcode or 0 for process in started]


def _main(rank: int, world: int, meeting: str, call: Any, args: tuple[Any, ...]) -> None:
    from torch import distributed

    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)})
    sys.stdout = sys.stderr = open(os.devnull if "VERBOSE" not in os.environ else f"{meeting}.{rank}", "w")  # noqa: SIM115
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    call(*args)
    print(time.process_time())
    if world > 1:  # in this order, or gloo's threads may abort the process when all is done
        distributed.barrier()
        gc.collect()
        distributed.destroy_process_group()
