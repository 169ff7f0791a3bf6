"""Groups runs by setting: runs that differ only in the seed belong together."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from . import compare
from .estimates import estimate
from .rows import Figure, Figures, Measured, Summary
from .run import summary
from .table import by_setting

Mark = Literal["best", "same", "worse", "unknown"]
MARKS = {
    "best": "best",
    "same": "not clearly worse",
    "worse": "worse than the best",
    "unknown": "cannot be compared",
}
SEEDS = 3  # from this number of seeds on, differences are paired by seed


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs of one setting, by seed; `mark` says whether it differs from the best setting beyond chance."""

    label: str
    paths: Sequence[Path]
    runs: Sequence[Summary]
    mark: Mark = "unknown"

    @property
    def kept(self) -> Figure:
        """The judged metric of the kept snapshots: mean over seeds, with its interval."""
        return over([judged(run, run.kept.policies[run.policy]) for run in self.runs])

    @property
    def start(self) -> Figure:
        """The judged metric of the starts: mean over seeds, with its interval."""
        return over([judged(run, run.iterations[0].policies[run.policy]) for run in self.runs])

    def curves(self) -> list[dict[int, Figure]]:
        """The judged metric by iteration, one curve per run."""
        return [
            {row.iteration: found for row in run.iterations if (found := judged(run, row.policies[run.policy]))}
            for run in self.runs
        ]

    def mean(self) -> dict[int, Figure]:
        """The mean curve over seeds with its interval, at the iterations that all runs have."""
        curves = self.curves()
        shared = set.intersection(*(set(curve) for curve in curves))
        return {at: over([curve[at] for curve in curves]) for at in sorted(shared)}


def judged(run: Summary, measured: Measured) -> Figure | None:
    """The figure that judges a run: against the start if that chose the snapshot, else sampled self-play."""
    figures: Figures = measured.versus.get(run.start, {}) if run.gains else measured.sampled
    return figures.get(run.metric)


def over(figures: Iterable[Figure | None]) -> Figure:
    """The mean of several seeds' figures with its 95 % interval over seeds; a single figure is returned unchanged, {}
    if there is none."""
    found = [each for each in figures if each]
    if len(found) < 2:
        return found[0] if found else {}
    told = estimate([each["mean"] for each in found], range(len(found)))
    return {**told.to_json(), "n": len(found)}


def settings(runs: Iterable[Path]) -> list[Setting]:
    """The settings of finished runs, each with its mark. ValueError if runs are judged by different metrics."""
    found = {path: summary(path) for path in sorted(runs, key=lambda path: (len(path.name), path))}
    metrics = {run.metric for run in found.values()}
    if len(metrics) > 1:
        raise ValueError(f"the runs are judged by different metrics: {', '.join(sorted(metrics))}")
    made = []
    for label, paths in by_setting(found).items():
        ordered = sorted(paths, key=lambda path: found[path].seed)
        made.append(Setting(label, ordered, [found[path] for path in ordered]))
    best = max(made, key=lambda each: each.kept.get("mean", float("-inf")))
    return [Setting(each.label, each.paths, each.runs, _mark(best, each)) for each in made]


def _mark(best: Setting, other: Setting) -> Mark:
    """Whether `other` is worse than `best` beyond chance, at 95 % (no correction for several comparisons)."""
    if best is other:
        return "best"
    high = _by_seed(best, other)
    if high is None:
        high = _by_scenario(best, other)
    if high is None or not isfinite(high):
        return "unknown"
    return "worse" if high < 0 else "same"


def _by_seed(best: Setting, other: Setting) -> float | None:
    """The upper end of `other` - `best`, paired by seed; None for fewer than `SEEDS` pairs."""
    ours, theirs = (
        {run.seed: found["mean"] for run in each.runs if (found := judged(run, run.kept.policies[run.policy]))}
        for each in (best, other)
    )
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) < SEEDS:
        return None
    return estimate([theirs[seed] - ours[seed] for seed in shared], range(len(shared))).high


def _by_scenario(best: Setting, other: Setting) -> float | None:
    """The upper end of `other` - `best`, paired by the scenarios of stored matches; None if there are none."""
    first = best.runs[0]
    if first.gains:  # judged against the start: matches of self-play do not show that
        return None
    try:
        rows = compare.compare([*best.paths, *other.paths], [first.metric], by="scenario")
    except (ValueError, FileNotFoundError):
        return None
    return next((row.difference.high for row in rows if row.mode == "sampled"), None)


def as_csv(found: Sequence[Setting]) -> str:
    """CSV of the judged metric and of greedy self-play's, a line per job, iteration and mode."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["setting", "seed", "job", "iteration", "kept", "metric", "mode", "mean", "low", "high"])
    for each in found:
        for path, run in zip(each.paths, each.runs, strict=True):
            for row in run.iterations:
                measured = row.policies[run.policy]
                modes = {"against the start" if run.gains else "sampled": judged(run, measured)}
                for mode, point in (modes | {"greedy": measured.greedy.get(run.metric)}).items():
                    if point:
                        place = [each.label, run.seed, path.name, row.iteration, int(row.iteration == run.best)]
                        writer.writerow([*place, run.metric, mode, point["mean"], point["low"], point["high"]])
    return out.getvalue()
