"""The page of a sweep or a comparison, its figure and its numbers: HTML, SVG, CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..system.files import write_text
from .curves import LARGE
from .figures import STYLES, alone, kept, learning
from .html import PATH
from .pages import render
from .run import figure
from .settings import MARKS, Setting, as_csv


def write(
    folder: Path,
    name: str,
    title: str,
    found: Sequence[Setting],
    lost: Sequence[Path] = (),
    differences: Sequence[Sequence[str]] = (),
) -> Path:
    """Writes `name`.html, `name`.svg (for a paper) and `name`_by_iteration.csv into `folder`; returns the page's path.

    `lost` are the jobs without a summary, `differences` a table of text with its header row first.
    """
    metric = found[0].runs[0].metric
    forest, charts = kept(metric, found), learning(metric, found, LARGE)
    small = learning(metric, found)
    page = render(
        "sweep.html",
        title=title,
        metric=metric,
        jobs=sum(len(each.paths) for each in found) + len(lost),
        settings=[_shown(folder, each) for each in found],
        lost=[each.name for each in lost],
        forest=forest,
        charts=charts,
        narrow=small[0][1] if len(small) == 1 else None,
        differences=differences,
    )
    write_text(folder / f"{name}.html", page)
    write_text(folder / f"{name}.svg", alone(forest, *(svg for _, svg in charts if len(found) <= STYLES)))
    write_text(folder / f"{name}_by_iteration.csv", as_csv(found))
    return folder / f"{name}.html"


def _shown(folder: Path, setting: Setting) -> dict[str, object]:
    """A setting's values for the page's table."""
    return {
        "label": setting.label,
        "mark": setting.mark,
        "told": MARKS[setting.mark],
        "seeds": ", ".join(str(run.seed) for run in setting.runs),
        "start": figure(setting.start),
        "kept": figure(setting.kept),
        "jobs": [(path.name, _link(folder, path)) for path in setting.paths],
    }


def _link(folder: Path, run: Path) -> str:
    """The relative link from the page to a job's report; "" if it has none."""
    report = run / PATH
    return quote(os.path.relpath(report, folder)) if report.exists() else ""
