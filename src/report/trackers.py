"""Where a run's metrics go besides its own files: the protocol, `metrics.jsonl`, Weights & Biases."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from ..system.files import REFUSED, append_lines, write_text
from . import redact


class Tracker(Protocol):
    """Takes the rows of a run. `open` comes first, `finish` always comes last, after a crash too."""

    def open(self, run: Path, iteration: int = 0) -> None:
        """Starts on the run directory `run`; `iteration` is the first one that will be logged (more than 0 on
        resume)."""

    def config(self, values: Mapping[str, Any]) -> None:
        """The composed config, and whatever else describes the run."""

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """One flat row of numbers."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        """A table, such as transcripts."""

    def finish(self, failed: bool = False) -> None:
        """Writes what is left and lets go; a second call does nothing."""


@contextmanager
def tracking(trackers: Sequence[Tracker], run: Path, iteration: int = 0) -> Iterator[Sequence[Tracker]]:
    """Opens the trackers, and finishes every one of them whatever happens, crashes and interrupts included."""
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

    A row is appended whole; a line that is no row, as a kill leaves the last one, is dropped when the run is resumed.
    Configs and tables are in the run's own files already (`config.yaml`, the episodes) and are not repeated here.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def open(self, run: Path, iteration: int = 0) -> None:
        """Rows of `iteration` and later, which will be logged again, are dropped with a torn last line."""
        self._path = run / "metrics.jsonl"
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_bytes().splitlines(keepends=True) if _before(line, iteration)]
        write_text(self._path, b"".join(kept).decode())

    def config(self, values: Mapping[str, Any]) -> None:
        """Nothing: `config.yaml` holds it."""

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        """Appends one line. A number that is not finite becomes null, which JSON can say."""
        if self._path is None:
            raise RuntimeError("open(run) comes before log")
        finite = {key: _finite(value) for key, value in row.items()}
        append_lines(self._path, [json.dumps({**finite, "iteration": iteration}, allow_nan=False)])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        """Nothing: the episodes hold it."""

    def finish(self, failed: bool = False) -> None:
        """Nothing is held back."""
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
    """Weights & Biases. The run's id lies in `wandb_id` of the run directory, so that a resumed run continues it.

    `offline` writes into the run directory and needs no account and no network; `wandb sync` sends it later. The key
    for `online` comes from the environment (WANDB_API_KEY) or `wandb login`, never from the config.
    """

    def __init__(
        self,
        project: str = "parley",
        mode: Literal["online", "offline", "disabled"] = "offline",
        name: str | None = None,
        tags: Sequence[str] = (),
        entity: str | None = None,
    ) -> None:
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"wandb mode {mode!r}, expected online, offline or disabled")
        self.project, self.mode, self.name, self.tags, self.entity = project, mode, name, tuple(tags), entity
        self._run: Any = None

    def open(self, run: Path, iteration: int = 0) -> None:
        """Starts the wandb run; every metric is drawn against `iteration`."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "logger=wandb needs wandb: pip install 'parley-lm[wandb]'", name=error.name
            ) from None

        run.mkdir(parents=True, exist_ok=True)
        # no metadata: it holds the command line as typed, host name and paths; the redacted manifest says what matters
        settings = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, x_disable_meta=True, host=""
        )
        self._run = wandb.init(
            project=self.project, entity=self.entity, name=self.name or run.name, tags=list(self.tags), mode=self.mode,
            id=_id(run / "wandb_id"), resume="allow", dir=str(run), settings=settings,
        )  # fmt: skip
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def config(self, values: Mapping[str, Any]) -> None:
        """The config without whatever looks like a key, a token or a password."""
        self._live().config.update(redact.public(values), allow_val_change=True)

    def log(self, row: Mapping[str, Any], iteration: int) -> None:
        self._live().log({**row, "iteration": iteration})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int) -> None:
        import wandb

        self._live().log(
            {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows]), "iteration": iteration}
        )

    def finish(self, failed: bool = False) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=int(failed))

    def _live(self) -> Any:
        if self._run is None:
            raise RuntimeError("open(run) comes before logging")
        return self._run


def _id(path: Path) -> str:
    """The run's id on the tracker, made once (from the system's own entropy: it must differ between equal seeds)."""
    if not path.exists():
        path.write_text(secrets.token_hex(6) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
