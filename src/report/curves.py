"""Curves with intervals as inline SVG: no script, no fonts, no colours of its own; the page's style gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .rows import Figure
from .run import figure

WIDTH, HEIGHT = 420, 250
At = Callable[[float, float], tuple[float, float]]  # (iteration, value) -> (x, y) in the drawing
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 42  # margins: room for the numbers and the names of the axes


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart; `key` is its style in the page (series-<key>)."""

    key: str
    label: str
    points: Mapping[int, Figure]  # iteration -> mean, low, high


def chart(name: str, curves: Sequence[Curve], level: Figure | None = None, level_label: str = "") -> str:
    """One metric by iteration. `level` is a line across, with its band (the demonstrators' figure)."""
    xs = sorted({x for curve in curves for x in curve.points})
    spans = [_span(point) for curve in curves for point in curve.points.values()] + ([_span(level)] if level else [])
    means = [point["mean"] for curve in curves for point in curve.points.values()] + ([level["mean"]] if level else [])
    least, most = min(low for low, _ in spans), max(high for _, high in spans)
    if min(means) >= 0:  # an interval may reach below 0 where no value can: the axis does not follow it
        least = max(least, 0.0)
    if name.endswith("_rate") and max(means) <= 1:
        most = min(most, 1.0)
    low, high, step = scale(least, most)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.5
        up = (min(max(y, low), high) - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} by iteration">']
    parts += _axes(name, xs, low, high, step, at)
    if level:
        parts += _level(level, level_label, at, xs)
    for curve in curves:
        parts += _curve(curve, at)
    return "\n".join([*parts, "</svg>"])


def scale(low: float, high: float, ticks: int = 5) -> tuple[float, float, float]:
    """Ends and step of an axis that holds [low, high] at round numbers (1, 2 or 5 times a power of ten)."""
    if not high > low:
        pad = abs(low) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    raw = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _span(point: Figure) -> tuple[float, float]:
    """Lower and upper end of what is drawn of a figure: its interval, or its mean where that is not known."""
    low, high = point.get("low"), point.get("high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return point["mean"], point["mean"]
    return low, high


def _axes(name: str, xs: Sequence[int], low: float, high: float, step: float, at: At) -> list[str]:
    parts = []
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    for index in range(round((high - low) / step) + 1):
        _, y = at(xs[0], low + index * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" '
            f'text-anchor="end">{low + index * step:.{places}f}</text>'
        )
    every = math.ceil(len(xs) / 12)
    for x in xs[::every]:
        across, _ = at(x, low)
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">iteration</text>'
    )
    parts.append(
        f'<text class="name" transform="translate(13 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(name)}</text>'
    )
    return parts


def _level(level: Figure, label: str, at: At, xs: Sequence[int]) -> list[str]:
    low, high = _span(level)
    (_, top), (_, bottom), (_, y) = at(xs[0], high), at(xs[0], low), at(xs[0], level["mean"])
    return [
        '<g class="series-level">',
        f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:.1f}"/>',
        f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
        f"<title>{escape(label)}: {escape(figure(level))}</title></line>",
        "</g>",
    ]


def _curve(curve: Curve, at: At) -> list[str]:
    points = sorted(curve.points.items())
    spans = [(x, *_span(point)) for x, point in points]
    band = [at(x, high) for x, _, high in spans] + [at(x, low) for x, low, _ in reversed(spans)]
    line = [at(x, point["mean"]) for x, point in points]
    parts = [f'<g class="series-{escape(curve.key)}">']
    if len(points) > 1:
        parts.append(f'<polygon class="band" points="{_path(band)}"/><polyline class="line" points="{_path(line)}"/>')
    for (x, point), (across, y) in zip(points, line, strict=True):
        (_, top), (_, bottom) = at(x, _span(point)[1]), at(x, _span(point)[0])
        parts.append(f'<line class="whisker" x1="{across:.1f}" x2="{across:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        shown = f"{curve.label}, iteration {x}: {figure(point)}"
        parts.append(
            f'<circle class="dot" cx="{across:.1f}" cy="{y:.1f}" r="3"><title>{escape(shown)}</title></circle>'
        )
    return [*parts, "</g>"]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
