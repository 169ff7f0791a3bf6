"""Trackers (loggers) of a run's metrics: the protocol, `metrics.jsonl`, Weights & Biases, and Lightning's loggers (CSV,
TensorBoard)."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ..system.files import REFUSED, append_lines, read_text, write_text
from . import redact
from .offline import history
from .rows import ONLY


class Tracker(Protocol):
    """Receives the rows of a run. `open` is called first, `finish` always last, even after a crash."""

    def open(self, run: Path, iteration: int = 0) -> None:
        """Starts logging the run directory `run`; `iteration` is the first one to come (above 0 on resume)."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Logs the composed config and other facts about the run."""

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """Logs one flat row of numbers."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        """Logs a table, such as transcripts."""

    def finish(self, failed: bool = False) -> None:
        """Flushes and closes; a second call does nothing."""


@runtime_checkable
class Dashboard(Tracker, Protocol):
    """A tracker that also takes optimiser steps, a summary and folders."""

    def steps(self, rows: Sequence[Mapping[str, float]], iteration: int) -> None:
        """Logs an iteration's optimiser steps, before its `log`; `step` counts over the whole run."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Logs the run's final figures."""

    def artifact(self, name: str, path: Path) -> None:
        """Uploads a folder at the run's end: `report`, or `snapshot` (`snapshot-POLICY`)."""


@contextmanager
def tracking(trackers: Sequence[Tracker], run: Path, iteration: int = 0) -> Iterator[Sequence[Tracker]]:
    """Opens the trackers, and finishes each of them in any case, also after a crash or an interrupt."""
    opened: list[Tracker] = []
    failed = True
    try:
        for tracker in trackers:
            opened.append(tracker)
            tracker.open(run, iteration)
        yield trackers
        failed = False
    finally:
        for tracker in reversed(opened):
            tracker.finish(failed)


class Jsonl:
    """`metrics.jsonl` in the run directory, one row per iteration.

    Each row is appended as a whole line. On resume an incomplete last line (left by a kill) is dropped. Configs and
    tables are already in the run's own files (`config.yaml`, the episodes).
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def open(self, run: Path, iteration: int = 0) -> None:
        """Drops an incomplete last line, and rows of `iteration` and later, which will be logged again."""
        self._path = run / "metrics.jsonl"
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_bytes().splitlines(keepends=True) if _before(line, iteration)]
        write_text(self._path, b"".join(kept).decode())

    def config(self, values: Mapping[str, Any]) -> None:
        """Nothing: `config.yaml` holds it."""

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """Appends one line. A number that is not finite becomes null."""
        if self._path is None:
            raise RuntimeError("open(run) comes before log")
        finite = {key: _finite(value) for key, value in row.items()}
        append_lines(self._path, [json.dumps({**finite, "iteration": iteration}, allow_nan=False)])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        """Nothing: the episodes hold it."""

    def finish(self, failed: bool = False) -> None:
        """Nothing: every row is already written."""
        self._path = None


def _before(line: bytes, iteration: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return bool(json.loads(line.decode())["iteration"] < iteration)
    except REFUSED:
        return False


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Wandb:
    """Weights & Biases. The wandb id is stored in `wandb_id` of the run directory, so a resumed run continues it.

    Mode `offline` writes into the run directory and needs no account or network; `wandb sync` sends it later. The key
    for `online` comes from the environment (WANDB_API_KEY) or `wandb login`, never from the config. Figures are named
    by section, such as eval/sampled/joint_score (see `sections`).

    name      the run's name, before its id; None: the run directory's name
    group     the group of runs; None: the sweep, or else the experiment (the folder above the run)
    task      dotted name of the task's function; its last part becomes the job type
    artifacts folders to upload at the end: report, snapshot
    """

    def __init__(
        self,
        project: str = "parley",
        mode: Literal["online", "offline", "disabled"] = "offline",
        name: str | None = None,
        tags: Sequence[str] = (),
        entity: str | None = None,
        group: str | None = None,
        task: str | None = None,
        notes: str | None = None,
        artifacts: Sequence[Literal["report", "snapshot"]] = ("report",),
    ) -> None:
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"wandb mode {mode!r}, expected online, offline or disabled")
        self.project, self.mode, self.name, self.tags, self.entity = project, mode, name, tuple(tags), entity
        self.group, self.task, self.notes, self.artifacts = group, task, notes, tuple(artifacts)
        self._run: Any = None
        self._folder = Path()
        self._offered = self._stored = 0  # history rows offered so far, and rows written by earlier processes

    def open(self, run: Path, iteration: int = 0) -> None:
        """Starts the wandb run; every metric has `iteration` as its x axis. A resumed run offers all of its rows again:
        stored ones are skipped, and each row keeps the history step of an uninterrupted run."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "logger=wandb needs wandb: pip install 'parley-lm[wandb]'", name=error.name
            ) from None

        run.mkdir(parents=True, exist_ok=True)
        # no metadata: it would hold the command line as typed, host name and paths; the redacted manifest is logged
        settings = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, x_disable_meta=True, host=""
        )
        identity = _id(run / "wandb_id")
        self._run = wandb.init(
            project=self.project, entity=self.entity, name=f"{self.name}-{identity}" if self.name else run.name,
            group=self.group or run.absolute().parent.name, job_type=self.task and self.task.rpartition(".")[2],
            tags=list(self.tags), notes=self.notes, mode=self.mode, id=identity, resume="allow", dir=str(run),
            settings=settings,
        )  # fmt: skip
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        self._run.define_metric("step")
        self._run.define_metric("steps/*", step_metric="step")
        self._folder, self._offered = run, 0
        self._stored = max(int(self._run.step), self._written())

    def config(self, values: Mapping[str, Any]) -> None:
        """Logs the config without values that look like a key, a token or a password."""
        self._live().config.update(redact.public(values), allow_val_change=True)

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """Logs one row, unless it is stored already."""
        if self._due():
            self._add({**sections(row), "iteration": iteration})

    def steps(self, rows: Sequence[Mapping[str, float]], iteration: int) -> None:
        """Logs the steps as steps/loss, steps/lr, steps/grad_norm, …, with `step` as the x axis."""
        for row in rows:
            if self._due():
                named = {f"steps/{name}": value for name, value in row.items() if name != "step"}
                self._add({**named, "step": row["step"]})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._live().summary.update(dict(values))

    def artifact(self, name: str, path: Path) -> None:
        """Uploads the folder if `artifacts` names it."""
        import wandb

        live, kind = self._live(), name.partition("-")[0]
        if kind in self.artifacts and path.is_dir():
            made = wandb.Artifact(f"{name}-{live.id}", type="model" if kind == "snapshot" else kind)
            made.add_dir(str(path))
            live.log_artifact(made)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        import wandb

        if self._due():
            made = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            self._add({name: made, "iteration": iteration})

    def finish(self, failed: bool = False) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=int(failed))
            self._written()

    def _due(self) -> bool:
        """Counts the next row of the history; returns whether it has to be logged."""
        self._live()
        self._offered += 1
        return self._offered > self._stored

    def _add(self, row: Mapping[str, Any]) -> None:
        self._live().log(dict(row), step=self._offered - 1, commit=True)

    def _written(self) -> int:
        """Returns, and notes, how many rows the run's offline files hold, or held before somebody sent and removed
        them."""
        marked = self._folder / "wandb_logged"
        text = read_text(marked).strip() if marked.exists() else ""
        files = self._folder.glob("wandb/offline-run-*/run-*.wandb")
        found = max([int(text) if text.isdecimal() else 0, *map(history, files)])
        write_text(marked, f"{found}\n")
        return found

    def _live(self) -> Any:
        if self._run is None:
            raise RuntimeError("open(run) comes before logging")
        return self._run


class Lightning:
    """A logger of Lightning Fabric: CSVLogger, or TensorBoardLogger (which needs the package tensorboard).

    It writes into `tracker/<kind>` of the run directory. Configs and tables are in the run's own files.
    """

    def __init__(self, kind: Literal["csv", "tensorboard"]) -> None:
        if kind not in ("csv", "tensorboard"):
            raise ValueError(f"kind {kind!r}, expected csv or tensorboard")
        self.kind = kind
        self._logger: Any = None

    def open(self, run: Path, iteration: int = 0) -> None:
        """Starts a logger. A resumed run gets a new version beside the earlier one, as is usual with these loggers.
        ModuleNotFoundError says what to install."""
        from lightning_fabric import loggers

        made = loggers.CSVLogger if self.kind == "csv" else loggers.TensorBoardLogger
        try:
            self._logger = made(root_dir=run, name=f"tracker/{self.kind}")
        except ModuleNotFoundError as error:
            needs = "logger=tensorboard needs tensorboard: pip install 'parley-lm[tensorboard]'"
            raise ModuleNotFoundError(needs, name=error.name) from None

    def config(self, values: Mapping[str, Any]) -> None:
        """Nothing: `config.yaml` holds it."""

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """Logs one row at step `iteration`, named by section."""
        if self._logger is None:
            raise RuntimeError("open(run) comes before log")
        self._logger.log_metrics(sections(row), iteration)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        """Nothing: the episodes hold it."""

    def finish(self, failed: bool = False) -> None:
        """Flushes the logger."""
        if self._logger is not None:
            self._logger.finalize("failed" if failed else "success")
            self._logger = None


class Several:
    """Several trackers at once, under arbitrary names; each gets everything."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.trackers = tuple(trackers.values())

    def open(self, run: Path, iteration: int = 0) -> None:
        for each in self.trackers:
            each.open(run, iteration)

    def config(self, values: Mapping[str, Any]) -> None:
        for each in self.trackers:
            each.config(values)

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        for each in self.trackers:
            each.log(row, iteration)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        for each in self.trackers:
            each.table(name, columns, rows, iteration)

    def steps(self, rows: Sequence[Mapping[str, float]], iteration: int) -> None:
        for each in self._dashboards():
            each.steps(rows, iteration)

    def summary(self, values: Mapping[str, Any]) -> None:
        for each in self._dashboards():
            each.summary(values)

    def artifact(self, name: str, path: Path) -> None:
        for each in self._dashboards():
            each.artifact(name, path)

    def finish(self, failed: bool = False) -> None:
        for each in self.trackers:
            each.finish(failed)

    def _dashboards(self) -> list[Dashboard]:
        return [each for each in self.trackers if isinstance(each, Dashboard)]


SECTIONS = {"play": "play", "learn": "train", "scores": "play/scores", "language": "play/language"}
"""Part of a row -> section of the dashboard; all other parts go to evaluation."""
WHOLE = ("seconds", "benchmark")
"""Parts of a row that belong to no policy."""


def sections(row: Mapping[str, Any]) -> dict[str, Any]:
    """Renames a flat row for a dashboard, which groups metrics by the part before the first slash.

    learner.sampled.score becomes eval/sampled/score, learner.learn.loss train/loss, seconds.play seconds/play. A policy
    not named learner is named after the section: eval/attacker/sampled/score.
    """
    return {_section(key): value for key, value in row.items()}


def _section(key: str) -> str:
    first, *rest = key.split(".")
    if first in WHOLE or not rest:
        return "/".join([first, *rest])
    part, *name = rest
    owner = [] if first == ONLY else [first]
    section, *below = SECTIONS.get(part, f"eval/{part}").split("/")
    return "/".join([section, *owner, *below, *name])


def _id(path: Path) -> str:
    """The run's id on the tracker, made once from the system's entropy, so that runs of equal seeds differ."""
    if not path.exists():
        path.write_text(secrets.token_hex(6) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
