"""Charts of several settings, for a page and for a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from markupsafe import Markup

from ..system.printing import printable
from .curves import SMALL, Curve, chart, reach, scale
from .rows import Figure
from .run import figure
from .settings import MARKS, Setting

STYLES = 6  # colours; with more settings than this, each gets its own chart
WIDTH, LINE = 900, 30  # chart of kept snapshots: its width, and a setting's height, in pixels
LABELS, MARGIN = 300, 150  # pixels for the settings' names, and for their comparison with the best
LETTERS = 38  # characters of a setting's name that fit
PRINT = (
    ".chart{font:12px Helvetica,Arial,sans-serif}.grid{stroke:#d5dae0}.tick,.name,.note{fill:#333}"
    ".line{fill:none;stroke:currentColor;stroke-width:2.4}.thin .line{stroke-width:1;opacity:.45}"
    ".band{fill:currentColor;opacity:.13}.whisker{stroke:currentColor;stroke-width:2}.dot{fill:currentColor}"
    ".seed{fill:none;stroke:currentColor;opacity:.7}"
    ".series-0{color:#1f6fd6}.series-1{color:#b85a08}.series-2{color:#12764a}.series-3{color:#7a5bb5}"
    ".series-4{color:#b3261e}.series-5{color:#56606c}"
)
"""Colours of a figure that stands alone, on white paper."""


def learning(name: str, found: Sequence[Setting], size: tuple[int, int] = SMALL) -> list[tuple[str, Markup]]:
    """(label, chart) of the judged metric by iteration: seeds thin, their mean bold with its interval. One chart for
    all settings; if there are many, one for each, on the same scale."""
    curves = [_curves(at, each) for at, each in enumerate(found)]
    every = [curve for each in curves for curve in each]
    if not every:
        return []
    ends = reach(name, every)
    if len(found) <= STYLES:
        return [("", chart(printable(name), every, limits=ends, size=size))]
    return [
        (setting.label, chart(printable(name), each, limits=ends))
        for setting, each in zip(found, curves, strict=True)
        if each
    ]


def _curves(at: int, setting: Setting) -> list[Curve]:
    """A setting's curves: each seed, then the mean if there are several."""
    key, seeds = str(at % STYLES), [curve for curve in setting.curves() if curve]
    if len(seeds) < 2:
        return [Curve(key, setting.label, curve) for curve in seeds]
    thin = [Curve(key, setting.label, _bare(curve), thin=True) for curve in seeds]
    mean = setting.mean()
    return [*thin, Curve(key, setting.label, mean)] if mean else thin


def _bare(curve: Mapping[int, Figure]) -> dict[int, Figure]:
    return {at: {"mean": each["mean"], "low": None, "high": None} for at, each in curve.items()}


def kept(name: str, found: Sequence[Setting]) -> Markup:
    """The judged metric of the kept snapshots: a line for each setting with its seeds, mean and interval, and whether
    it differs from the best beyond chance."""
    spans = [
        each["mean"] if each.get(end) is None else each[end]
        for each in (setting.kept for setting in found)
        for end in ("low", "high")
        if each
    ]
    means = [point["mean"] for setting in found for point in _each(setting)]
    low, high, step = scale(min([*spans, *means]), max([*spans, *means]))
    height = LINE * len(found) + 50

    def x(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - MARGIN)

    label = f"{name} of the kept snapshots: " + "; ".join(f"{each.label} {figure(each.kept)}" for each in found)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(printable(label))}">']
    for index in range(round((high - low) / step) + 1):
        at = x(low + index * step)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="6" y2="{height - 40}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{height - 24}" text-anchor="middle">{low + index * step:.4g}</text>'
        )
    middle = (LABELS + WIDTH - MARGIN) / 2
    parts.append(
        f'<text class="name" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(printable(name))}</text>'
    )
    for row, setting in enumerate(found):
        parts += _line(row, setting, x)
    return Markup("\n".join([*parts, "</svg>"]))


def _each(setting: Setting) -> list[Figure]:
    """The figures of the kept snapshots, one for each seed."""
    ends = ((run.best, curve) for run, curve in zip(setting.runs, setting.curves(), strict=True))
    return [curve[best] for best, curve in ends if best in curve]


def _line(row: int, setting: Setting, x: Callable[[float], float]) -> list[str]:
    y, whole = 6 + LINE * (row + 0.5), setting.kept
    name = setting.label if len(setting.label) <= LETTERS else setting.label[: LETTERS - 1] + "…"
    parts = [
        f'<g class="series-{row % STYLES}">',
        f'<text class="name" x="{LABELS - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(printable(name))}</text>',
        f'<text class="note" x="{WIDTH - MARGIN + 12}" y="{y + 4:.1f}">{MARKS[setting.mark]}</text>',
    ]
    for point in _each(setting) if len(setting.runs) > 1 else ():
        parts.append(f'<circle class="seed" cx="{x(point["mean"]):.1f}" cy="{y:.1f}" r="3.5"/>')
    if whole:
        if whole.get("low") is not None and whole.get("high") is not None:
            ends = f'x1="{x(whole["low"]):.1f}" x2="{x(whole["high"]):.1f}"'
            parts.append(f'<line class="whisker" {ends} y1="{y:.1f}" y2="{y:.1f}"/>')
        told = escape(printable(f"{setting.label}: {figure(whole)}"))
        parts.append(
            f'<circle class="dot" cx="{x(whole["mean"]):.1f}" cy="{y:.1f}" r="5"><title>{told}</title></circle>'
        )
    return [*parts, "</g>"]


def alone(*charts: Markup) -> str:
    """Charts stacked into one standalone SVG file, for a paper."""
    parts, top = [], 0.0
    for each in charts:
        _, _, width, height = map(float, str(each).partition('viewBox="')[2].partition('"')[0].split())
        tall = height * WIDTH / width
        parts.append(str(each).replace("<svg ", f'<svg y="{top:.0f}" width="{WIDTH}" height="{tall:.0f}" ', 1))
        top += tall + 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}">'
    return "\n".join([head, f"<style>{PRINT}</style>", *parts, "</svg>", ""])
