"""Creates a dashboard at Weights & Biases: a saved view with the layout of the config."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ...report.progress import terminal
from ...report.rows import MODES, ONLY
from ...report.trackers import sections as named
from ...run.config import ConfigError

STEPS = "steps/"
"""Figures of optimiser steps, plotted against `step`; all others against `iteration`."""


def dashboard(
    config: DictConfig,
    out: Path,
    project: str,
    entity: str | None,
    title: str,
    metric: str,
    sections: Mapping[str, Mapping[str, str]],
    tables: list[str],
) -> float | None:
    """Creates a saved view of `project` with the panels of `sections`, and prints its address.

    ConfigError for an invalid expression, or without WANDB_API_KEY or the library (before anything is sent), and with
    the service's message if it refuses.
    """
    _check(sections)
    if not os.environ.get("WANDB_API_KEY"):
        raise ConfigError("task=dashboard needs a key: set WANDB_API_KEY in the environment or in .env")
    try:
        import wandb
        from wandb_workspaces import workspaces
    except ModuleNotFoundError:
        raise ConfigError("task=dashboard needs wandb-workspaces: pip install 'parley-lm[dashboard]'") from None

    wandb.setup(wandb.Settings(silent=True))
    layout = list(_sections(metric, sections, tables))
    try:
        owner = entity or wandb.Api().default_entity or ""
        made = workspaces.Workspace(entity=owner, project=project, name=title, sections=layout).save()
    except Exception as error:  # the library's errors have no common base class
        raise ConfigError(f"task=dashboard: Weights & Biases took no view of {project}: {error}") from error
    terminal().print(f"dashboard: {made.url}", soft_wrap=True)
    return None


def _check(sections: Mapping[str, Mapping[str, str]]) -> None:
    for section, panels in sections.items():
        for panel, figures in panels.items():
            try:
                re.compile(figures)
            except re.error as error:
                raise ConfigError(f"task.sections.{section}.{panel}: {figures!r}: {error}") from error


def _sections(metric: str, sections: Mapping[str, Mapping[str, str]], tables: list[str]) -> Iterator[Any]:
    """The sections as objects of the service's library, with the panel of `metric` first."""
    from wandb_workspaces.reports import v2
    from wandb_workspaces.workspaces import Section

    main = figure(metric)
    first = [v2.LinePlot(title=metric, x="iteration", y=[main, f"{main}/low", f"{main}/high"])]
    for name, panels in sections.items():
        lines = [
            v2.LinePlot(title=panel, x="step" if STEPS in figures else "iteration", metric_regex=figures)
            for panel, figures in panels.items()
        ]
        yield Section(name=name, panels=first + lines, is_open=True)
        first = []
    for name in tables:
        yield Section(name=name, panels=[v2.WeavePanelSummaryTable(table_name=name)], is_open=True)


def figure(metric: str) -> str:
    """The dashboard's name of a run's `metric`, such as eval/sampled/score for sampled.score."""
    owned = f"{ONLY}.{metric}" if metric.partition(".")[0] in MODES else metric
    return next(iter(named({owned: None})))
