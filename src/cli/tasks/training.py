"""Tasks that train: the whole loop, or one of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ...models.snapshot import Snapshot
from ...report.line import next_steps
from ...report.progress import terminal
from ...report.rows import Summary
from ...report.table import benchmark_table, figures_table, run_table, yardstick_table
from ...report.trackers import Tracker, tracking
from ...report.verdict import verdicts
from ...run.build import running, trackers
from ...run.config import ConfigError, judge, metric_name
from ...run.contents import SUMMARY, history, kept, played_by
from ...run.loop import Loop, iterations
from ...run.reporting import Reporting, reporting
from ...run.run import Run
from ...run.tracking import conclude
from ...system import ranks
from ...system.files import write_json

VERDICT = {"better": "bold green", "worse": "bold red", "unclear": "bold"}


@ranks.collective
def selfplay(config: DictConfig, out: Path) -> float | None:
    """Imitates, then plays, learns and evaluates, again and again; returns the kept snapshot's figure."""
    with running(config, out) as run, reporting(run) as report, tracking(trackers(config), out) as logs:
        for tracker in logs:
            tracker.config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        summary = iterations(run, logs, report)
        worst = ranks.shared(partial(_conclude, run, logs, summary, report))
        steps = next_steps(out, worst, list(run.game.roles))
    _closing(out, summary, steps)
    policy, path = judge(config)
    return float(summary.kept.policies[policy].figure(path)["mean"])


def _conclude(run: Run, logs: Sequence[Tracker], summary: Summary, report: Reporting) -> str | None:
    """Writes a run's final files; returns the worst match of the kept snapshot in the report."""
    write_json(run.out / SUMMARY, summary.to_json())
    report.finished(summary)
    conclude(logs, run, summary)
    return report.report.worst(summary.best)


def _closing(out: Path, summary: Summary, steps: Sequence[tuple[str, str]]) -> None:
    console = terminal()
    for policy in summary.policies:
        console.print(run_table(summary, policy=policy))
        if (against := yardstick_table(summary, policy)) is not None:
            console.print(against)
        rows = {f"iteration {row.iteration}": row.policies[policy].benchmark for row in summary.iterations}
        if any(rows.values()):
            console.print(benchmark_table("benchmark", rows))
    for verdict in verdicts(summary):
        console.print(verdict.text, style=VERDICT[verdict.word], highlight=False)
    for what, how in steps:
        console.print(f"{what}: {how}", soft_wrap=True, highlight=False)


@ranks.collective
def imitate(config: DictConfig, out: Path) -> float | None:
    """Runs only imitation: makes snapshot 0."""
    with running(config, out) as run:
        made = Loop(run).start()
    _told(made)
    return None


@ranks.collective
def play(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of self-play, by the kept snapshots of `run`, or by a new start."""
    with running(config, out) as at_work:
        loop = Loop(at_work)
        history = [kept(Path(run)) if run else loop.start()]
        with loop.seated(history) as sitting:
            told = loop.self_play(loop.of(1)[0], history, sitting)
    policy, _ = judge(config)
    found = told["policies"][policy]["figures"] or told["figures"]
    terminal().print(figures_table("self-play", found))
    return float(found[metric_name(config)]["mean"]) if metric_name(config) in found else None


@ranks.collective
def learn(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of learning, from the newest stored round of `run`; without a run, from the data option."""
    number = max(history(Path(run), "play"), default=0) if run else 0
    if run and not number:
        raise ConfigError(f"{run} has no finished round of self-play: make one with task=play")
    with running(config, out) as at_work:
        loop = Loop(at_work)
        if run:
            source = Run(at_work.parts, Path(run), at_work.progress)
            made = loop.iteration(number, [played_by(Path(run), number)], source)
        else:
            made = loop.start.offline()
    _told(made)
    return None


@ranks.collective
def offline(config: DictConfig, out: Path) -> float | None:
    """Offline learning without play: the base model learns from the data option's rewards, pairs or logs."""
    with running(config, out) as run:
        made = Loop(run).start.offline()
    _told(made)
    return None


def _told(made: Mapping[str, Snapshot]) -> None:
    for policy, snapshot in made.items():
        terminal().print(f"snapshot {snapshot.version} of {policy}: {snapshot.path}", soft_wrap=True)
