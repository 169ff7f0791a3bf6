"""Several processes: the same matches, dealt; one that dies takes the others along; each job of a sweep has a group of
its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from parley.cli import launch, processes
from parley.cli.job import GONE
from parley.data.store import EpisodeStore
from parley.run.config import ConfigError

TASKS = '''
import json, os, sys, time
from pathlib import Path
from parley.system import preempt, ranks

@ranks.collective
def meet(config, out):
    """Leaves what each rank knows; its figure is a sum over ranks."""
    told = {"rank": ranks.rank(), "argv": sys.orig_argv, "config": config.seed, "port": os.environ["MASTER_PORT"]}
    (out / f"{ranks.rank()}.told").write_text(json.dumps(told))
    print("said by", ranks.rank())
    return float(sum(ranks.gathered(config.seed + ranks.rank())))

@ranks.collective
def fail(config, out):
    """Fails on rank 1, while rank 0 waits for it."""
    if ranks.rank():
        raise ValueError("something is amiss")
    ranks.barrier()

@ranks.collective
def step(config, out):
    """Adds up gradients, as a training step does; rank 1 is killed, and rank 0 waits for its share."""
    import signal
    import torch
    from torch import distributed
    if ranks.rank():
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.ones(4))

@ranks.collective
def wait(config, out):
    """Waits until it is asked to stop."""
    with preempt.listening():
        (out / f"{ranks.rank()}.pid").write_text(str(os.getpid()))
        time.sleep(120)
'''
PROFILE = {"name": "two", "accelerator": "cpu", "devices": 2, "nodes": 1, "threads": 1, "strategy": "ddp"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stranger's tasks, from which everything is started."""
    (tmp_path / "strange_tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def config(task: str, **profile: object) -> DictConfig:
    return OmegaConf.create({"seed": 5, "task": {"_target_": f"strange_tasks.{task}"}, "hardware": PROFILE | profile})


def until(true: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- started ---------------------------------------------------------------------------------------------------------


def test_a_profile_with_two_devices_starts_two_processes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The figure comes back, only rank 0 speaks, and what was composed stands on no command line and is left
    nowhere."""
    out = folder / "run"
    assert launch.run(config("meet"), out) == 11.0
    told = [json.loads((out / f"{rank}.told").read_text()) for rank in range(2)]
    assert [(each["rank"], each["config"]) for each in told] == [(0, 5), (1, 5)] and told[0]["port"] == told[1]["port"]
    assert not any("strange_tasks" in word or "=" in word for each in told for word in each["argv"])
    assert capfd.readouterr().out == "said by 0\n"
    assert sorted(path.name for path in out.iterdir()) == ["0.told", "1.told"]


def test_one_that_fails_says_why_and_stops_the_others(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        launch.run(config("fail"), folder / "run")
    told = capfd.readouterr().err
    assert stopped.value.code == 1 and told.count("ValueError: something is amiss") == 1 and "rank 1: Traceback" in told


def test_one_that_dies_within_a_collective_is_the_only_one_that_is_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watched = processes._watched
    codes: list[tuple[int, int]] = []
    monkeypatch.setattr(processes, "_watched", lambda each: codes.extend(watched(each)) or codes)
    with pytest.raises(SystemExit) as stopped:
        launch.run(config("step"), folder / "run")
    assert stopped.value.code == 128 + signal.SIGKILL and dict(codes) == {0: GONE, 1: -signal.SIGKILL}
    assert capfd.readouterr().err == "parley: rank 1: killed by SIGKILL\n"


def begun(folder: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A launcher whose two processes wait, and their numbers."""
    OmegaConf.save(config("wait"), folder / "wait.yaml")
    code = (
        "import pathlib, omegaconf; from parley.cli import launch; launch.run(omegaconf.OmegaConf.load('wait.yaml'), "
        "pathlib.Path('run'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    files = [folder / "run" / f"{rank}.pid" for rank in range(2)]
    until(lambda: process.poll() is not None or all(file.exists() and file.read_text() for file in files))
    assert process.poll() is None
    return process, [int(file.read_text()) for file in files]


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_signal_is_passed_on_and_the_exit_code_comes_back(folder: Path) -> None:
    process, ranks = begun(folder)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 75 and all(map(gone, ranks))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_processes_die_with_the_one_that_started_them(folder: Path) -> None:
    process, ranks = begun(folder)
    process.kill()
    process.wait()
    until(lambda: all(map(gone, ranks)), 20)


def test_each_job_of_a_sweep_starts_its_own_processes(folder: Path) -> None:
    told = sweep(folder, "-m", "parley")
    assert [each["config"] for each in told] == [1, 1, 2, 2] and told[0]["port"] != told[2]["port"]
    assert not any("seed" in word for each in told for word in each["argv"])


def sweep(folder: Path, *command: str) -> list[dict]:
    """What the ranks of the jobs seed=1 and seed=2 knew."""
    words = ["-m", "task._target_=strange_tasks.meet", "hardware=cpu_x2", "seed=1,2", f"hydra.sweep.dir={folder}/jobs"]
    done = subprocess.run([sys.executable, *command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("said")] == ["said by 0"] * 2
    return [json.loads((folder / "jobs" / job / f"{rank}.told").read_text()) for job in "01" for rank in range(2)]


# --- adopted ---------------------------------------------------------------------------------------------------------


def test_torchruns_processes_are_adopted_for_every_job_of_a_sweep(folder: Path) -> None:
    told = sweep(folder, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "parley")
    assert [(each["rank"], each["config"]) for each in told] == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_step_of_slurm_is_adopted_and_a_batch_script_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    launch.adopt()
    assert "RANK" not in os.environ
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[03-05,9]"}
    os.environ.update(step | {"SLURM_PROCID": "5", "SLURM_LOCALID": "1"})
    launch.adopt()
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")] == [
        "5",
        "1",
        "8",
        "gpu03",
    ]
    first = os.environ["MASTER_PORT"]
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    os.environ["SLURM_STEP_ID"] = "1"
    launch.adopt()
    assert os.environ["MASTER_PORT"] != first  # two steps of one job


@pytest.mark.parametrize(
    ("nodes", "first"), [("cpu1", "cpu1"), ("a,b", "a"), ("n[1,4-5]-ib,x", "n1-ib"), ("gpu-a[007-009]", "gpu-a007")]
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert launch.first_host(nodes) == first


@pytest.mark.parametrize(
    ("profile", "world", "message"),
    [
        ({}, "3", "for 2 processes"),
        ({"devices": 1}, "2", "for 1 process"),
        ({}, "1", "for 2 process"),
        ({"nodes": 4}, None, "torchrun"),
    ],
)
def test_processes_that_do_not_fit_the_profile_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, profile: dict, world: str | None, message: str
) -> None:
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=message):
        launch.run(config("meet", **profile), folder / "run")


# --- what the ranks do together --------------------------------------------------------------------------------------

PLAY = [
    "task=play", "model=hf", "imitate.matches=0", "imitate.players=[]", "play.scenarios=12", "play.group=2",
    "play.in_flight=3",
    "play.sampling.max_tokens=20", "learner.optimizer.lr=1e-3",
]  # fmt: skip


def composed(model: Path, *words: str) -> DictConfig:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*PLAY, f"model.path={model}", *words])


def said(run: Path) -> dict[str, list[tuple[int, ...]]]:
    episodes = EpisodeStore(run / "iter_001/play", shard=None).read()
    return {episode.id: [turn.call.sampled_ids for turn in episode.turns if turn.call] for episode in episodes}


def test_a_rank_is_killed_and_one_process_goes_on_with_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from parley.games.base import Message
    from parley.models.tiny import Tiny

    chat = [Message("user", " ".join(f"word{number}" for number in range(60)))]
    Tiny(width=32, heads=2, layers=2, mlp=64).create(tmp_path / "model", [chat], seed=1)
    launch.run(composed(tmp_path / "model"), tmp_path / "whole")
    whole, run = said(tmp_path / "whole"), tmp_path / "cut"

    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *words, **options: started.append(popen(*words, **options)) or started[-1]
    )
    shard = run / "iter_001/play/1.jsonl"

    def kill() -> None:
        until(lambda: shard.exists() and shard.stat().st_size > 0)
        started[1].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SystemExit) as stopped:
        launch.run(composed(tmp_path / "model", "hardware=cpu_x2"), run)
    ended = time.monotonic()
    killer.join()
    assert stopped.value.code == 128 + signal.SIGKILL and time.monotonic() - ended < 60
    assert "rank 1: killed by SIGKILL" in capfd.readouterr().err
    half = said(run)
    shards = [path.stem for path in EpisodeStore(run / "iter_001/play", shard=None).shards()]
    assert shards == ["0", "1"] and 0 < len(half) < len(whole) == 24
    launch.run(composed(tmp_path / "model", f"resume={run}"), run)
    assert said(run) == whole and all(whole[match] == tokens for match, tokens in half.items())
