"""One process per device, before any stage: started here, or adopted from torchrun and SLURM.

Started: the command's own process composes the config, writes it to a file in the run directory and supervises one
process per device. If one fails, the others are stopped; signals (Ctrl-C, SIGTERM, SIGUSR1) are passed on; if the
parent dies, they die; it exits with the first exit code that is not 0.

Adopted: rank 0 composes the config, the other ranks wait for it. So every rank has the same run directory, and a
sweep's jobs run one after the other.

Either way RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, and a default process group exists before
anything else is built.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from ..run.config import ConfigError, use_threads
from ..run.directory import LAUNCH, LAUNCHED
from ..run.errors import TOLD, in_words
from ..system import ranks
from ..system.files import write_text
from .validation import RESERVED

JOB, FIGURE, ERROR = "job.json", "figure.json", "{}.error"  # files of a launch
GONE = 76  # exit code of a rank that stops because another one failed
GRACE_S, TERM_S, POLL_S = 5.0, 15.0, 0.05  # seconds for others to end by themselves; after SIGTERM; between polls
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
            f"WORLD_SIZE is "
            f"{ranks.world()}: start as many (torchrun --nnodes={hardware.nodes} --nproc-per-node={hardware.devices} "
            f"-m parley …), or "
            "choose a profile that fits"
        )
    if wanted == 1:
        return _task(job)
    if ranks.world() > 1:
        return _member(job)
    if hardware.nodes > 1:
        raise ConfigError(
            f"hardware={hardware.name} needs {hardware.nodes} machines, where parley cannot start processes by "
            f"itself: run the command on "
            f"each under torchrun (--nnodes={hardware.nodes} --nproc-per-node={hardware.devices} -m parley …), or in "
            f"one step of SLURM "
            f"(srun --nodes={hardware.nodes} --ntasks-per-node={hardware.devices} parley …)"
        )
    return _start(job, hardware.devices)


def _task(job: Job) -> float | None:
    """The task itself, in this process."""
    node = job.config.task
    arguments = {str(key): value for key, value in node.items() if key not in RESERVED}
    found: float | None = get_method(node._target_)(job.config, job.out, **arguments)
    return found


def _grouped(job: Job, number: int) -> float | None:
    """The task as one rank of the process group number `number`."""
    from torch.distributed import PrefixStore

    if ranks.rank():
        _hush()
    hardware = job.config.hardware
    ranks.join(hardware.accelerator, PrefixStore(f"group/{number}", _store()), hardware.strategy == "fsdp_offload")
    with ranks.work():
        figure = _task(job)
    ranks.leave()
    return figure


def _hush() -> None:
    """Silences the standard output of all ranks except 0; errors are still printed."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


@cache
def _store() -> Any:
    """The key-value store of MASTER_ADDR and MASTER_PORT: the launcher's, or else rank 0's own."""
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous("env://", ranks.rank(), ranks.world()))
    store.set_timeout(ranks.PATIENCE)
    return store


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
        _store().set(f"job/{number}", job.text())
    return _grouped(job, number)


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
        _grouped(job, number)
    _store().set(f"left/{ranks.rank()}", "")


def _told(number: int) -> str:
    with ranks.others():
        text: str = _store().get(f"job/{number}").decode()
    return text


@contextmanager
def leading() -> Iterator[None]:
    """After the block, even on errors, tells the following ranks that there are no more jobs, and waits briefly for
    them."""
    try:
        yield
    finally:
        if ranks.world() > 1 and ranks.rank() == 0:
            _store().set(f"job/{next(_jobs)}", "")
            with suppress(RuntimeError):  # a rank may have ended already
                _store().wait([f"left/{each}" for each in range(1, ranks.world())], timedelta(seconds=TERM_S))


# --- started here ----------------------------------------------------------------------------------------------------


def _start(job: Job, devices: int) -> float | None:
    """Runs the job in `devices` processes of this machine, and waits for them."""
    _check_devices(job.config.hardware)
    job.out.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=LAUNCH, dir=job.out))
    try:
        write_text(folder / JOB, job.text())
        with _processes(folder, devices) as processes:
            codes = _watched(processes)
        _tell(folder, codes)
        if code := next((code for _, code in codes if code != GONE), GONE if codes else 0):
            sys.exit(code if code > 0 else 128 - code)
        figure: float | None = json.loads((folder / FIGURE).read_text())
        return figure
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_devices(hardware: Any) -> None:
    import torch

    there = torch.cuda.device_count() if hardware.accelerator == "gpu" else hardware.devices
    if there < hardware.devices:
        raise ConfigError(
            f"hardware={hardware.name} is for {hardware.devices} GPUs, and this machine has {there}: choose another "
            f"profile"
        )


@contextmanager
def _processes(folder: Path, devices: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes by rank; all are stopped when the block ends."""
    from torch.distributed import TCPStore

    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )  # their rendezvous, on a port chosen by the system
    shared = {
        LAUNCHED: folder.name,
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 uses the existing store
        "PYTHONPATH": os.pathsep.join(
            path or os.getcwd() for path in sys.path
        ),  # so that the user's own games are found
    }
    command = [sys.executable, "-P", "-m", __name__, str(folder), str(os.getpid())]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in map(str, range(devices)):
            own = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
            processes.append(
                subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, process_group=0)
            )  # Ctrl-C comes from here only
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _watched(processes: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, int]]:
    """Waits for all; returns (rank, exit code) of the failed ones, in order of failure. Then stops the others, which
    are not listed.

    KeyboardInterrupt after Ctrl-C.
    """
    with _passing_on(processes) as heard:
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(POLL_S)
        failed = _failed(codes)
        if failed:
            _wait(processes, GRACE_S)
            failed += [one for one in _failed([process.poll() for process in processes]) if one not in failed]
            _send(processes, signal.SIGTERM)
            _wait(processes, TERM_S)
            _send(processes, signal.SIGKILL)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt
    return failed


def _failed(codes: Sequence[int | None]) -> list[tuple[int, int]]:
    return [(rank, code) for rank, code in enumerate(codes) if code]


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(POLL_S)


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Forwards signals to the processes while the block runs; the list holds the received ones. A second Ctrl-C
    kills."""
    heard: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        again = number == signal.SIGINT and number in heard
        heard.append(number)
        _send(processes, signal.SIGKILL if again else number)

    mine = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, pass_on) for number in mine}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(folder: Path, failed: Sequence[tuple[int, int]]) -> None:
    """Prints the errors of the failed processes, each distinct one once; "another rank is gone" only if no rank gave a
    better reason."""
    said: set[str] = set()
    for rank, code in [one for one in failed if one[1] != GONE] or failed:
        file = folder / ERROR.format(rank)
        text = (
            file.read_text().rstrip()
            if file.exists()
            else f"killed by {signal.Signals(-code).name}"
            if code < 0
            else ""
        )
        if text and text not in said:
            said.add(text)
            print(f"parley: {'' if rank == 0 else f'rank {rank}: '}{text}", file=sys.stderr)


# --- one of the processes that were started --------------------------------------------------------------------------


def work(folder: Path, parent: int) -> NoReturn:
    """The main function of a process started by `parent` for the launch in `folder`."""
    _die_with(parent)
    code = _work(folder)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(code)  # threads of communication libraries may abort a normal exit


def _work(folder: Path) -> int:
    """The exit code."""
    error = folder / ERROR.format(ranks.rank())
    try:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        job = Job.of((folder / JOB).read_text())
        sys.argv = list(job.argv)
        figure = _grouped(job, 0)
        if ranks.rank() == 0:
            write_text(folder / FIGURE, json.dumps(figure))
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ranks.Elsewhere as gone:
        write_text(error, str(gone))
        return GONE
    except TOLD as fault:
        write_text(error, in_words(fault))
        return 2
    except (
        Exception
    ):  # any error ends this process; its traceback goes to the launcher, which prints it once for all ranks
        write_text(error, traceback.format_exc())
        return 1
    return 0


def _die_with(parent: int) -> None:
    """Makes the system kill this process when `parent` dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch_over, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(GONE)


def _watch_over(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
