"""The processes of a job on this machine, one per device: started and supervised here.

If one fails, the others are stopped; signals (Ctrl-C, SIGTERM, SIGUSR1) are passed on; if the parent dies, they die; it
exits with the first exit code that is not 0.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn

from ..run.config import ConfigError
from ..run.directory import LAUNCH, LAUNCHED
from ..run.errors import TOLD, in_words
from ..system import ranks
from ..system.files import write_text
from .job import GONE, Job, grouped

JOB, FIGURE, ERROR = "job.json", "figure.json", "{}.error"  # files of a launch
GRACE_S, TERM_S, POLL_S = 5.0, 15.0, 0.05  # seconds for others to end by themselves; after SIGTERM; between polls
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def start(job: Job, devices: int) -> float | None:
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

    # their rendezvous, on a port chosen by the system
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        LAUNCHED: folder.name,
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 uses the existing store
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # to find the user's own games
    }
    command = [sys.executable, "-P", "-m", __name__, str(folder), str(os.getpid())]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in map(str, range(devices)):
            own = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
            # of a process group of their own: Ctrl-C comes from here only
            processes.append(subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, process_group=0))
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
        text = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
        text = file.read_text().rstrip() if file.exists() else text
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
        figure = grouped(job, 0)
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
    except Exception:  # its traceback goes to the launcher, which prints it once for all ranks
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
