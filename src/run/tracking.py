"""Sends a run's data to trackers: after each iteration figures, optimiser steps and some matches; at the end the
summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.episode import Episode
from ..data.replay import replay
from ..report import choice
from ..report.rows import ONLY, Row, Summary
from ..report.trackers import Dashboard, Jsonl, Tracker
from ..report.transcript import Views
from ..system.files import REFUSED, read_json
from .config import metric_name
from .contents import all_snapshots
from .run import Run

STEP = ("loss", "lr", "grad_norm", "tokens_per_second")  # first columns of an optimiser step


def track(logs: Sequence[Tracker], run: Run, row: Row, earlier: int) -> int:
    """Logs a finished iteration; returns the total of optimiser steps, which was `earlier` before. Dashboards get
    intervals and steps, too."""
    data = row.to_json()
    told = {**data["policies"], "seconds": data["seconds"], "round": row.round}
    means, steps = dict(flattened(told)), list(_steps(run.out, row, earlier))
    for tracker in logs:
        if isinstance(tracker, Dashboard):
            tracker.steps(steps, row.iteration)
        if not isinstance(tracker, Jsonl):
            tracker.table("transcripts", *_transcripts(run, row.iteration), row.iteration)
        tracker.log(
            {**means, **dict(flattened(told, bounds=True))} if isinstance(tracker, Dashboard) else means, row.iteration
        )
    return max([earlier, *(int(each["step"]) + 1 for each in steps)])


def conclude(logs: Sequence[Tracker], run: Run, summary: Summary) -> None:
    """Logs the summary, the report and the kept snapshots to the dashboards."""
    for tracker in logs:
        if isinstance(tracker, Dashboard):
            tracker.summary(_summary(summary))
            tracker.artifact("report", run.out / "report")
            for policy, snapshot in all_snapshots(run.out).get(summary.best, {}).items():
                if snapshot.served is None and Path(snapshot.path).is_dir():
                    tracker.artifact("snapshot" if policy == ONLY else f"snapshot-{policy}", Path(snapshot.path))


def flattened(value: Any, key: str = "", bounds: bool = False) -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings with their dotted keys; a figure with an interval gives its mean, or with `bounds`
    only its low and high end."""
    if isinstance(value, Mapping):
        if "mean" in value and "low" in value:
            ends = [("low", value["low"]), ("high", value["high"])] if bounds else []
            yield from ((f"{key}.{name}", end) for name, end in ends if end is not None)
            if not bounds:
                yield key, value["mean"]
            return
        for name, part in value.items():
            yield from flattened(part, f"{key}.{name}" if key else str(name), bounds)
    elif isinstance(value, (int, float)) and not bounds:
        yield key, value


def _steps(run: Path, row: Row, earlier: int) -> Iterator[dict[str, float]]:
    """The optimiser steps of an iteration (iteration 0: imitation), numbered over the whole run."""
    for policy in row.policies:
        place = Path(f"iter_{row.iteration:03d}", *(("learn", policy) if row.iteration else ("start",)), "learn.json")
        try:
            curve = read_json(run / place)["metrics"]["curve"]
        except (FileNotFoundError, *REFUSED):  # a hosted learner keeps none
            continue
        own = "" if policy == ONLY else f"{policy}/"
        for number, each in enumerate(curve if row.iteration or policy == next(iter(row.policies)) else []):
            known = {name: each[name] for name in (*STEP, *each) if name in each and name not in ("step", "steps")}
            yield {"step": earlier + number, **{f"{own}{name}": value for name, value in known.items()}}


def _transcripts(run: Run, iteration: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Some matches of an iteration as a table: (columns, rows)."""
    metric = metric_name(run.config)
    chosen = choice.choose(run.out, iteration, metric, run.config.eval.transcripts, run.seed)
    return choice.COLUMNS, choice.rows(chosen, _views(run), metric)


def _views(run: Run) -> Callable[[Episode], Views]:
    return lambda episode: replay(run.game, episode).views


def _summary(summary: Summary) -> dict[str, Any]:
    """The kept iteration, its figure and gain with intervals, and the run's cost."""
    policy, metric = summary.policy, summary.metric
    start, kept = (row.policies[policy].sampled for row in (summary.iterations[0], summary.kept))
    gain = summary.improvement_greedy.get(policy) or summary.gains.get(policy, {}).get(metric)
    figures = {"kept": kept.get(metric), "start": start.get(metric), "gain": gain}
    flat = dict(flattened(figures)) | dict(flattened(figures, bounds=True))
    told = {name.replace(".", "/"): value for name, value in flat.items()}
    return {"best": summary.best, "metric": metric, **told} | {
        "seconds": summary.seconds, "cpu_seconds": summary.cpu_seconds,
    }  # fmt: skip
