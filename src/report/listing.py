"""Lists the runs below some folders, newest first: progress, gain and size on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.table import Table

from ..system.files import held, read_text
from ..system.printing import printable
from .cards import read_config
from .rows import Figure
from .run import figure, summary, without_aliases
from .table import add_row, blank

SAVED, LOOP = "config.yaml", "selfplay"
DEPTHS = tuple(f"{'*/' * depth}{SAVED}" for depth in range(4))  # a run, outputs/NAME/RUN, multirun/NAME/SWEEP/JOB


@dataclass(frozen=True, slots=True)
class Listed:
    """One run.

    state  running, finished, stopped, or unreadable (config or summary damaged); for a task other than self-play (play,
           exploit, …) the task's name
    started, kept  figures of the start and of the kept iteration in `metric`; None until the run is finished
    """

    path: Path
    experiment: str
    seed: str
    state: str
    iterations: str
    metric: str = ""
    started: Figure | None = None
    kept: Figure | None = None
    changed: float = 0.0  # seconds since the epoch
    size: int = 0  # bytes

    @property
    def gain(self) -> str:
        """The kept iteration's mean minus the start's, as text."""
        return f"{self.kept['mean'] - self.started['mean']:+.2f}" if self.kept and self.started else "–"


def runs(folders: Sequence[str | Path], tags: Collection[str] = ()) -> list[Listed]:
    """The runs below the folders that have all of `tags`, the most recently changed first."""
    found = {path.parent for folder in folders for depth in DEPTHS for path in Path(folder).glob(depth)}
    found = {run for run in found if run.name != ".hydra"}  # Hydra's own copy of a config
    return sorted((_listed(run) for run in found if set(tags) <= _tags(run)), key=lambda run: -run.changed)


def runs_table(found: Sequence[Listed], now: float) -> Table:
    """A row for each run; `now` is in seconds since the epoch. It fits 80 columns: only the run's path is wrapped."""
    table = blank("runs", ["run", "seed", "state", "done", "kept", "gain", "age", "MB"])
    table.box, table.padding = None, (0, 1)
    for column in table.columns[1:]:
        column.no_wrap = True
    for run in found:
        kept = f"{run.metric}\n{figure(run.kept)}" if run.kept else "–"
        cells = [str(run.path), run.seed, run.state, run.iterations, kept, run.gain]
        cells += [_age(now - run.changed), f"{run.size / 1e6:,.1f}"]
        add_row(table, [printable(cell) for cell in cells])
    return table


def _age(seconds: float) -> str:
    """Seconds in the largest unit: 12 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _listed(run: Path) -> Listed:
    size, changed = _disk(run)
    try:
        config = yaml.safe_load(without_aliases(read_text(run / SAVED)))
        name, seed, total = str(config["name"]), str(config["seed"]), str(config["iterations"])
        task = str(config.get("task", {}).get("_target_", LOOP)).rpartition(".")[2]
        if task != LOOP and not held(run):
            return Listed(run, name, seed, f"task={task}", "–", changed=changed, size=size)
        done = f"{sum(1 for _ in run.glob('iter_*/learn/stage.json'))}/{total}"
        if not (run / "summary.json").exists():
            return Listed(run, name, seed, "running" if held(run) else "stopped", done, changed=changed, size=size)
        data = summary(run)
        first, last = (row.policies[data.policy].sampled.get(data.metric) for row in (data.iterations[0], data.kept))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError):
        return Listed(run, "?", "?", "unreadable", "?", changed=changed, size=size)
    return Listed(run, name, seed, "finished", done, data.metric, first, last, changed, size)


def _tags(run: Path) -> set[str]:
    try:
        return {str(tag) for tag in read_config(run).get("tags", [])}
    except TypeError:
        return set()


def _disk(run: Path) -> tuple[int, float]:
    """(bytes of a run's files, time of the last change). Files that a running run removes meanwhile are skipped."""
    size, changed = 0, 0.0
    for folder, _, names in os.walk(run):
        for name in names:
            with suppress(FileNotFoundError):
                each = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(each.st_mode):
                    size, changed = size + each.st_size, max(changed, each.st_mtime)
    return size, changed
