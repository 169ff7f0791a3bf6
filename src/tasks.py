"""What a task builds and runs. Each takes the composed config, the run directory, and the arguments of its own node."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from .config import SAVED, SUMMARY, ConfigError, changed_keys, imitation_learner
from .data.credit import NothingKept
from .files import Locked, lock, write_json, write_text
from .loop import Loop, Parts
from .objectives.filtered_bc import FilteredBC
from .play.arena import TooManyFailures
from .report import manifest
from .report.progress import Progress
from .report.table import run_table
from .report.trackers import Jsonl, Tracker, tracking
from .stages import StageChanged

BEGAN = time.perf_counter()
EXPECTED = (Locked, StageChanged, NothingKept, TooManyFailures)  # what is told without a traceback


def selfplay(config: DictConfig, out: Path) -> float | None:
    """Imitates, then plays, learns and evaluates, again and again; returns the kept snapshot's figure."""
    with running(config, out) as loop, tracking(trackers(config), out) as logs:
        for tracker in logs:
            tracker.config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        summary = _iterations(loop, logs)
        write_json(out / SUMMARY, summary)
    _closing(out, summary)
    which, name = config.metric.split(".", 1)
    return float(summary["iterations"][summary["best"]][which][name]["mean"])


def _iterations(loop: Loop, logs: Sequence[Tracker]) -> dict[str, Any]:
    config = loop.config
    rows: list[dict[str, Any]] = []
    snapshots = [start := loop.start()]
    for number in range(config.iterations + 1):
        if number:
            snapshots.append(loop.iterate(number, snapshots[-1]))
        row = {"iteration": number, "snapshot": snapshots[-1].version, **loop.evaluate(number, snapshots[-1], start)}
        if number == 0:
            _merge(row, loop.yardsticks(0, start))
        rows.append(_with_training(loop, row))
        _log(logs, row)
    best = max(range(len(rows)), key=lambda at: _judged(config, rows[at]))
    if best:
        _merge(rows[best], loop.yardsticks(best, snapshots[best]))
    name = config.metric.split(".", 1)[1]
    demonstrators = loop.done.get("iter_000/demonstrations/train")
    return {
        "experiment": config.name,
        "seed": config.seed,
        "seconds": round(time.perf_counter() - BEGAN, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "best": best,
        "metric": name,
        "demonstrators": demonstrators.outputs if demonstrators else None,
        "improvement_greedy": loop.improvement(best, name),
        "iterations": rows,
    }


def _judged(config: DictConfig, row: Mapping[str, Any]) -> float:
    """What the snapshot to keep is chosen by: the metric on the validation split."""
    return float(row["validation"][config.metric.split(".", 1)[1]]["mean"])


def _with_training(loop: Loop, row: dict[str, Any]) -> dict[str, Any]:
    number = row["iteration"]
    folder = f"iter_{number:03d}"
    if number:
        learned = loop.outputs(f"{folder}/learn")
        row["play"] = {key: value for key, value in loop.outputs(f"{folder}/play").items() if key != "figures"} | learned["credit"]
        row["learn"] = learned["learn"]
    elif "iter_000/start" in loop.done:
        row["learn"] = loop.outputs("iter_000/start")["learn"]
    row["seconds"] = loop.seconds(folder)
    return row


def _merge(row: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        row[key] = {**row.get(key, {}), **value}


def _log(logs: Sequence[Tracker], row: Mapping[str, Any]) -> None:
    flat = dict(_flat(row, ""))
    for tracker in logs:
        tracker.log(flat, int(row["iteration"]))


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if "mean" in value and "low" in value:
            yield key, value["mean"]
            return
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (int, float)) and key != "iteration":
        yield key, value


def _closing(out: Path, summary: Mapping[str, Any]) -> None:
    console = Console()
    console.print(run_table(summary))
    console.print(f"run directory: {out}")


# --- building and guarding a run ---------------------------------------------------------------------------------------


def build(config: DictConfig) -> Parts:
    """The parts of the experiment. Nodes are built here and nowhere else."""
    objective, hardware = config.objective, config.hardware
    loss, node = instantiate(objective.loss), imitation_learner(config)
    device = {"cpu": "cpu", "gpu": "cuda"}[hardware.accelerator]
    dtype = "bfloat16" if hardware.precision.startswith("bf16") else "float32"
    backend = instantiate(config.backend)
    return Parts(
        config=config,
        game=instantiate(config.game),
        model=instantiate(config.model),
        backend=lambda: backend(device=device, dtype=dtype),
        credit=instantiate(objective.credit),
        learner=instantiate(config.learner)(loss=loss, hardware=hardware),
        imitator=instantiate(node)(loss=FilteredBC(), hardware=hardware),
        data=instantiate(config.data) if config.data else None,
    )


@contextmanager
def running(config: DictConfig, out: Path) -> Iterator[Loop]:
    """A loop on the run directory `out`, which is locked, and refused where another run's files are in it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with lock(out):
            _claim(config, out)
            with Progress() as progress:
                yield Loop(build(config), out, progress)
    except EXPECTED as error:
        raise ConfigError(str(error)) from error


def _claim(config: DictConfig, out: Path) -> None:
    """Writes config and manifest into a new run directory, or checks that this config may continue the run in it."""
    saved = out / SAVED
    if saved.exists():
        if config.resume == "none":
            raise ConfigError(f"{out} already holds a run: resume={out} goes on with it; or name another directory (hydra.run.dir=…)")
        changed = changed_keys(OmegaConf.load(saved), config)  # type: ignore[arg-type]
        if changed:
            raise ConfigError(f"{out} was begun with other values of {', '.join(changed)}: give the old ones, or begin a new run")
        return
    if foreign := sorted(path.name for path in out.iterdir() if path.name not in (".hydra", ".lock", "parley.log")):
        raise ConfigError(f"{out} is not empty (it holds {', '.join(foreign[:3])}): choose another directory")
    write_json(out / "manifest.json", manifest.manifest(sys.argv, config.seed, dict(config.hardware)))
    write_text(saved, OmegaConf.to_yaml(config, resolve=True))


def trackers(config: DictConfig) -> list[Tracker]:
    """`metrics.jsonl`, and the logger node where there is one."""
    return [Jsonl(), *([instantiate(config.logger)] if config.logger else [])]
