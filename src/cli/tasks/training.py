"""Tasks that train: the whole loop, or one of its parts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ...data.episode import Episode
from ...data.replay import replay as replayed
from ...report import choice, html, transcript
from ...report.run import figure
from ...report.table import benchmark_table, figures_table, run_table, yardstick_table
from ...report.trackers import Tracker, tracking
from ...run.build import running, trackers
from ...run.config import ConfigError
from ...run.directory import (
    SUMMARY,
    history,
    kept,
    player_of,
)
from ...run.loop import Loop, figure_of, iterations, metric_name
from ...system import ranks
from ...system.files import write_json


@ranks.collective
def selfplay(config: DictConfig, out: Path) -> float | None:
    """Imitates, then plays, learns and evaluates, again and again; returns the kept snapshot's figure."""
    with running(config, out) as loop, tracking(trackers(config), out) as logs:
        for tracker in logs:
            tracker.config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        summary = iterations(loop, logs)
        ranks.shared(lambda: _conclude(loop, logs, summary))
    _closing(out, summary)
    return figure_of(summary["iterations"][summary["best"]], config.metric)


def _conclude(loop: Loop, logs: Sequence[Tracker], summary: Mapping[str, Any]) -> None:
    write_json(loop.out / SUMMARY, summary)
    html.write(loop.out, loop.game.facts.metrics, _views(loop), loop.config.eval.transcripts)
    for tracker in logs:
        tracker.table("transcripts", *_transcripts(loop, summary["best"]), summary["best"])


def _views(loop: Loop) -> Callable[[Episode], transcript.Views]:
    return lambda episode: replayed(loop.game, episode).views


def _transcripts(loop: Loop, best: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """A table of the kept snapshot's matches, for trackers: (columns, rows)."""
    metric, views = metric_name(loop.config), _views(loop)
    chosen = choice.choose(loop.out, best, metric, loop.config.eval.transcripts, loop.seed)
    return choice.COLUMNS, choice.rows(chosen, views, metric)


def _closing(out: Path, summary: Mapping[str, Any]) -> None:
    console = Console()
    console.print(run_table(summary))
    if (against := yardstick_table(summary)) is not None:
        console.print(against)
    if asked := {
        f"iteration {row['iteration']}": row["benchmark"] for row in summary["iterations"] if "benchmark" in row
    }:
        console.print(benchmark_table("benchmark", asked))
    gain = summary["improvement_greedy"]
    if summary["best"]:
        console.print(
            f"greedy {summary['metric']}, kept less start, paired over {gain['n']} held-out scenarios: {figure(gain)}"
        )
    console.print(f"report: {out / 'report' / 'index.html'}", soft_wrap=True)


@ranks.collective
def imitate(config: DictConfig, out: Path) -> float | None:
    """Imitation alone: makes snapshot 0."""
    with running(config, out) as loop:
        made = loop.start()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


@ranks.collective
def play(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of self-play: of the kept snapshot of `run`, or of a start that is made here."""
    with running(config, out) as loop:
        snapshot = kept(Path(run)) if run else loop.start()
        figures = loop.self_play(1, snapshot)["figures"]
    Console().print(figures_table(f"self-play of {snapshot.version}", figures))
    return float(figures[metric_name(config)]["mean"]) if metric_name(config) in figures else None


@ranks.collective
def learn(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of learning, from the newest round that is stored in `run`; without a run, from what the data option
    holds."""
    number = max(history(Path(run), "play"), default=0) if run else 0
    if run and not number:
        raise ConfigError(f"{run} has no finished round of self-play: make one with task=play")
    with running(config, out) as loop:
        if run:
            source = Loop(loop.parts, Path(run), loop.progress)
            made = loop.learn(number, player_of(Path(run), number), source)
        else:
            made = loop.offline()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


@ranks.collective
def offline(config: DictConfig, out: Path) -> float | None:
    """Learning from stored data, without a match: the model as it comes, and the data option's rewards, pairs or
    logs."""
    with running(config, out) as loop:
        made = loop.offline()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None
