"""Live progress: bars on a terminal, plain lines at a sane rate elsewhere (a scheduler's output).

A finished stage leaves one line behind, the same on both, and in the run's log file with the time of day; off a
terminal those of evaluation, which are many and short, stand in the log file alone. `Progress` is silent on a quiet
console, which is what the ranks that are not rank 0 are given.
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

OFTEN_S, SELDOM_S = 15, 60  # seconds between two lines of a stage: where a tenth of it was done since, and elsewhere
BRIEF = "/eval/"  # in the names of stages that leave no line off a terminal


def terminal(**options: Any) -> Console:
    """A console that shows names, paths and words of models as they are: none of them is read as markup."""
    return Console(markup=False, **options)


class Progress:
    """Shows the running stages. Use it as a context manager; `console` defaults to standard error.

    Lines that stay are also appended to the file `log`, where one is given; so is how it ended, if that was an error.
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
        """A stage of `total` units (None: unknown), to be entered with `with`."""
        return Stage(self, name, total, unit, self._clock, self._bars)

    def note(self, text: str) -> None:
        """A line that stays, above the bars and in the log."""
        self.say(text)
        if self.log is not None:
            self._append(text)

    def end(self, stage: str, text: str) -> None:
        """The line of a finished or broken-off stage."""
        if self._bars is None and self.log is not None and BRIEF in stage:
            self._append(text)
        else:
            self.note(text)

    def say(self, text: str) -> None:
        """A line for the terminal alone."""
        self.console.print(Text(text), soft_wrap=True)

    def _append(self, text: str) -> None:
        assert self.log is not None
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        with suppress(OSError):  # a full disk is told by what must be written
            append_lines(self.log, [f"{now}  {line}" for line in masked(text).splitlines()])


class Stage:
    """One running piece of work. `total` may be set once it is known.

    Facts given to `advance`: whole numbers are counted and shown per second, the rest is shown as last given.
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
        """`n` units were done by an earlier process: they count, and say nothing of the speed."""
        self.done += n
        self._found += n

    def advance(self, n: int = 1, **facts: Fact) -> None:
        """`n` more units are done."""
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
        """Whether it is time for a line; the last unit has its own."""
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
    """A field of the task as plain text: names and facts are never read as markup."""

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
    """A rate in three figures: 0.42, 85.2, 5.2k."""
    if per_second >= 10_000:
        return f"{per_second / 1000:.0f}k"
    return f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 12 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
