"""Curves with intervals as inline SVG without script or fonts; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from .rows import Figure
from .run import figure

At = Callable[[float, float], tuple[float, float]]  # (x, value) -> pixel coordinates
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 42  # margins in pixels, for the axes' numbers and names
SMALL, LARGE = (420, 250), (900, 340)  # width and height in pixels
DENSE = 40  # a curve with more points than this is drawn as one path, without a dot for each


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart; `key` names its style (class series-<key>). A thin line has no dots."""

    key: str
    label: str
    points: Mapping[int, Figure]  # iteration -> mean, low, high
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with its band, such as the demonstrators' figure or the highest possible value."""

    key: str
    label: str
    figure: Figure


def chart(
    name: str,
    curves: Sequence[Curve],
    levels: Sequence[Level] = (),
    across: str = "iteration",
    kept: int | None = None,
    limits: tuple[float, float] | None = None,
    size: tuple[int, int] = SMALL,
) -> Markup:
    """Draws one metric by iteration (or by `across`) as SVG. `kept` is marked on the x axis; `limits` are the ends of
    the y axis (None: as the figures need)."""
    width, height = size
    xs = sorted({x for curve in curves for x in curve.points})
    low, high, step = scale(*(limits or reach(name, curves, levels)))

    def at(x: float, y: float) -> tuple[float, float]:
        along = (x - xs[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.5
        up = (min(max(y, low), high) - low) / (high - low)
        return LEFT + along * (width - LEFT - RIGHT), height - BOTTOM - up * (height - TOP - BOTTOM)

    label = f"{name} by {across}: " + "; ".join(_told(curve) for curve in curves if curve.points and not curve.thin)
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    parts += _axes(name, across, xs, (low, high, step), at, size)
    if kept in xs:
        parts.append(_kept(at(kept, high), at(kept, low)))
    for level in levels:
        parts += _level(level, at, width)
    for curve in curves:
        parts += _curve(curve, at, across)
    return Markup("\n".join([*parts, "</svg>"]))


def _told(curve: Curve) -> str:
    """The first and last value of a curve in words, for screen readers."""
    first, last = min(curve.points), max(curve.points)
    return f"{curve.label} {figure(curve.points[first])} at {first}, {figure(curve.points[last])} at {last}"


def reach(name: str, curves: Sequence[Curve], levels: Sequence[Level] = ()) -> tuple[float, float]:
    """The smallest and the largest value that a chart must show."""
    shown = [point for curve in curves for point in curve.points.values()] + [level.figure for level in levels]
    spans, means = [_span(point) for point in shown], [point["mean"] for point in shown]
    least, most = min(low for low, _ in spans), max(high for _, high in spans)
    if min(means) >= 0:  # an interval may reach below 0 although no value can; the axis then starts at 0
        least = max(least, 0.0)
    if name.endswith("_rate") and max(means) <= 1:
        most = min(most, 1.0)
    return least, most


def scale(low: float, high: float, ticks: int = 5) -> tuple[float, float, float]:
    """(low, high, step) of an axis that covers [low, high] with round numbers (1, 2 or 5 times a power of ten)."""
    if not high > low:
        pad = abs(low) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    raw = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _span(point: Figure) -> tuple[float, float]:
    """The ends of a figure's interval, or its mean twice if the interval is unknown."""
    low, high = point.get("low"), point.get("high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return point["mean"], point["mean"]
    return low, high


def _axes(
    name: str, across: str, xs: Sequence[int], ends: tuple[float, float, float], at: At, size: tuple[int, int]
) -> list[str]:
    (width, height), (low, high, step) = size, ends
    parts = []
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    for index in range(round((high - low) / step) + 1):
        _, y = at(xs[0], low + index * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        tick = f"{low + index * step:.{places}f}" if abs(high) < 1e6 else f"{low + index * step:.3g}"
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    every = math.ceil(len(xs) / (width / 50))
    for x in xs[::every]:
        along, _ = at(x, low)
        parts.append(f'<text class="tick" x="{along:.1f}" y="{height - BOTTOM + 17}" text-anchor="middle">{x}</text>')
    middle = (TOP + height - BOTTOM) / 2
    parts.append(
        f'<text class="name" x="{(LEFT + width - RIGHT) / 2:.0f}" y="{height - 6}" '
        f'text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(
        f'<text class="name" transform="translate(13 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(name if len(name) <= 30 else name[:29] + "…")}</text>'
    )
    return parts


def _kept(top: tuple[float, float], bottom: tuple[float, float]) -> str:
    """Marks the kept snapshot on the x axis."""
    (x, high), (_, low) = top, bottom
    return (
        f'<g class="series-kept"><line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}">'
        f"<title>the kept snapshot</title></line></g>"
    )


def _level(level: Level, at: At, width: int) -> list[str]:
    low, high = _span(level.figure)
    (_, top), (_, bottom), (_, y) = at(0, high), at(0, low), at(0, level.figure["mean"])
    return [
        f'<g class="series-{escape(level.key)}">',
        f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{width - LEFT - RIGHT}" height="{bottom - top:.1f}"/>',
        f'<line class="line" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
        f"<title>{escape(level.label)}: {escape(figure(level.figure))}</title></line>",
        "</g>",
    ]


def _curve(curve: Curve, at: At, across: str) -> list[str]:
    points = sorted(curve.points.items())
    spans = [(x, *_span(point)) for x, point in points]
    band = [at(x, high) for x, _, high in spans] + [at(x, low) for x, low, _ in reversed(spans)]
    line = [at(x, point["mean"]) for x, point in points]
    parts = [f'<g class="series-{escape(curve.key)}{" thin" if curve.thin else ""}">']
    if len(points) > 1 and not curve.thin:
        parts.append(f'<polygon class="band" points="{_path(band)}"/>')
    if len(points) > 1:
        parts.append(f'<polyline class="line" points="{_path(line)}"/>')
    if len(points) > DENSE or curve.thin:
        return [*parts, "</g>"]
    for (x, point), (along, y) in zip(points, line, strict=True):
        (_, top), (_, bottom) = at(x, _span(point)[1]), at(x, _span(point)[0])
        parts.append(f'<line class="whisker" x1="{along:.1f}" x2="{along:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        shown = f"{curve.label}, {across} {x}: {figure(point)}"
        parts.append(f'<circle class="dot" cx="{along:.1f}" cy="{y:.1f}" r="3"><title>{escape(shown)}</title></circle>')
    return [*parts, "</g>"]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
