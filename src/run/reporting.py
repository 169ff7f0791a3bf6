"""Writes the report of a run in progress: after iterations, and when the run stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ..data.episode import Episode
from ..data.replay import replay
from ..report.html import Report, Stop
from ..report.redact import masked
from ..report.rows import Summary
from ..report.transcript import Views
from ..system import ranks
from .errors import in_words
from .run import Run


class Reporting:
    """Writes the report of `run` (on rank 0), limited to the share `eval.report` of its CPU time."""

    def __init__(self, run: Run) -> None:
        self.run, self.iterations = run, int(run.config.iterations)
        self.report = Report(run.out, run.game.facts, self.views, run.config.eval.transcripts)
        self.data: Summary | None = None  # the latest summary
        self.spent, self.times, self._began = 0.0, 0, time.process_time()

    def views(self, episode: Episode) -> Views:
        """The private views of a match."""
        return replay(self.run.game, episode).views

    def iteration(self, data: Summary, gained: Callable[[], Mapping[str, Any]]) -> None:
        """Called after an iteration. `gained` computes the gain of the best snapshot so far, only if the report is
        written. All ranks call this."""
        self.data = data
        if data.iterations[-1].iteration < self.iterations and ranks.shared(self._affordable):
            whole = replace(data, **gained())
            ranks.shared(partial(self._timed, partial(self.report.write, whole, self.iterations)))

    def finished(self, data: Summary) -> None:
        """Writes the final report of a finished run. For rank 0."""
        self._timed(partial(self.report.write, data))
        share = self.spent / max(time.process_time() - self._began, 1e-9)
        self.run.progress.note(
            f"report: written {self.times} times in {self.spent:.2f} CPU-s, {share:.1%} of the run's"
        )

    def stopped(self, error: BaseException) -> None:
        """Writes the report of a run that ends with `error`, unless it has no evaluation yet. For rank 0. Faults here
        do not hide the error."""
        if self.data is None:
            return
        try:
            stop = self._stop(_words(error), self.data)
            self._timed(partial(self.report.write, self.data, self.iterations, stop))
            self.run.progress.note(f"report: {self.report.path}")
        except Exception as fault:
            self.run.progress.note(f"the report could not be written: {fault}")

    def _stop(self, text: str, data: Summary) -> Stop:
        """The figures of the newest finished round of play."""
        folder = self.run.out / f"iter_{data.iterations[-1].iteration + 1:03d}" / "play"
        played = sorted(each.parent for each in [*folder.glob("stage.json"), *folder.glob("r*/stage.json")])
        if not played:
            return Stop(text)
        name = str(played[-1].relative_to(self.run.out))
        return self.report.stopped(text, name, self.run.episodes(name), data)

    def _affordable(self) -> bool:
        return self.spent <= float(self.run.config.eval.report) * (time.process_time() - self._began)

    def _timed(self, write: Callable[[], Any]) -> None:
        began = time.process_time()
        write()
        self.spent, self.times = self.spent + time.process_time() - began, self.times + 1


@contextmanager
def reporting(run: Run) -> Iterator[Reporting]:
    """The reporting of `run`; also writes the report if the block fails."""
    made = Reporting(run)
    try:
        yield made
    except BaseException as error:
        if ranks.rank() == 0:
            made.stopped(error)
        raise


def _words(error: BaseException) -> str:
    """The reason why a run ended, as text."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "it was asked to stop; with resume=auto the same command goes on from here"
    return masked(in_words(error) or type(error).__name__)
