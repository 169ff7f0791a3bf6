"""Live progress: bars on a terminal, occasional plain lines elsewhere (a scheduler's output).

A finished stage leaves one line, the same in both cases, and with the time of day in the run's log file. Evaluation has
many short stages; off a terminal their lines go to the log file only. Ranks other than 0 get a quiet console, on which
`Progress` prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Task, TaskID, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn as Column
from rich.text import Text

from ..system.files import append_lines
from .redact import masked

Fact = int | float | str

OFTEN_S, SELDOM_S = 15, 60  # seconds between two lines of a stage: after a further tenth of it, and otherwise
BRIEF = "/eval/"  # stages with this in their name print no line off a terminal


def terminal(**options: Any) -> Console:
    """A console that shows names, paths and models' text literally: nothing is read as markup."""
    return Console(markup=False, **options)


class Progress:
    """Shows the running stages. Use it as a context manager; `console` defaults to standard error.

    Permanent lines, and the error if it ends with one, are also appended to the file `log` (None: no file).
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic, log: Path | None = None
    ) -> None:
        self.console, self.log = console or terminal(stderr=True), log
        self._clock = clock
        self._bars = _bars(self.console) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if kind is not None and self.log is not None:
            self._append("".join(format_exception(kind, error, trace)))

    def stage(self, name: str, total: int | None, unit: str = "steps") -> Stage:
        """Makes a stage of `total` units (None: unknown), to be entered with `with`."""
        return Stage(self, name, total, unit, self._clock, self._bars)

    def note(self, text: str) -> None:
        """Prints a permanent line above the bars, and logs it."""
        self.say(text)
        if self.log is not None:
            self._append(text)

    def end(self, stage: str, text: str) -> None:
        """Prints the line of a finished or aborted stage."""
        if self._bars is None and self.log is not None and BRIEF in stage:
            self._append(text)
        else:
            self.note(text)

    def say(self, text: str) -> None:
        """Prints a line without logging it."""
        self.console.print(Text(text), soft_wrap=True)

    def _append(self, text: str) -> None:
        assert self.log is not None
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        with suppress(OSError):  # a full disk is reported by the writes that matter
            append_lines(self.log, [f"{now}  {line}" for line in masked(text).splitlines()])


class Stage:
    """One stage at work. `total` may be set once it is known.

    Facts given to `advance`: whole numbers are summed and shown per second, others are shown as last given.
    """

    def __init__(
        self, progress: Progress, name: str, total: int | None, unit: str, clock: Callable[[], float], bars: Bars | None
    ) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._progress, self._clock, self._bars = progress, clock, bars
        self._counted: dict[str, int] = {}
        self._latest: dict[str, float | str] = {}
        self._task: TaskID | None = None
        self._began = self._said = clock()
        self._tenth = 0
        self._found = 0

    def __enter__(self) -> Self:
        self._began = self._said = self._clock()
        if self._bars is not None:
            self._task = self._bars.add_task(self.name, total=self.total, unit=self.unit, facts="")
        return self

    def found(self, n: int) -> None:
        """Counts `n` units done by an earlier process; they are left out of the speed."""
        self.done += n
        self._found += n

    def advance(self, n: int = 1, **facts: Fact) -> None:
        """Counts `n` more finished units."""
        self.done += n
        for key, value in facts.items():
            if isinstance(value, int):
                self._counted[key] = self._counted.get(key, 0) + value
            else:
                self._latest[key] = value
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self.done, total=self.total, facts=self._facts())
        elif self._due():
            self._said, self._tenth = self._clock(), self._tenths()
            self._progress.say(f"{self.name}: {self._count()} {self.unit}{self._tail(self._facts(), self._left())}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.refresh()
        took = duration(self._elapsed())
        state = (
            f"{self.done:,} {self.unit} in {took}"
            if kind is None
            else f"stopped after {self._count()} {self.unit}, {took}"
        )
        self._progress.end(self.name, f"{self.name}: {state}{self._tail(self._facts())}")

    def _due(self) -> bool:
        """Whether to print a line now. The last unit has the stage's closing line instead."""
        silent = self._clock() - self._said
        return self.done != self.total and (silent >= SELDOM_S or (silent >= OFTEN_S and self._tenths() > self._tenth))

    def _tenths(self) -> int:
        return 10 * self.done // self.total if self.total else 0

    def _elapsed(self) -> float:
        return max(self._clock() - self._began, 1e-9)

    def _count(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    def _left(self) -> str:
        if not self.total or self.done == self._found:
            return ""
        return duration(self._elapsed() / (self.done - self._found) * max(self.total - self.done, 0)) + " left"

    def _facts(self) -> str:
        counted = {self.unit: self.done - self._found, **self._counted}
        rates = [f"{rate(value / self._elapsed())} {key}/s" for key, value in counted.items()]
        shown = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self._latest.items()
        ]
        return ", ".join(rates + shown)

    @staticmethod
    def _tail(*parts: str) -> str:
        return "".join(f", {part}" for part in parts if part)


class _Count(Column):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{int(task.total):,}"
        return Text(f"{int(task.completed):,}{total} {task.fields['unit']}", style="progress.percentage")


class _Field(Column):
    """A field of the task as plain text, never read as markup."""

    def __init__(self, field: str, style: str = "") -> None:
        super().__init__()
        self._field, self._style = field, style

    def render(self, task: Task) -> Text:
        text = task.description if self._field == "description" else task.fields[self._field]
        return Text(text, style=self._style)


def _bars(console: Console) -> Bars:
    columns = (
        _Field("description", "bold"),
        BarColumn(bar_width=24),
        _Count(),
        _Field("facts", "dim"),
        TimeRemainingColumn(),
    )
    return Bars(*columns, console=console, refresh_per_second=4)


def rate(per_second: float) -> str:
    """A rate as text, rounded: 0.42, 85.2, 5.2k."""
    if per_second >= 10_000:
        return f"{per_second / 1000:.0f}k"
    return f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    """Seconds as text: 4.2 s, 3 min 12 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
