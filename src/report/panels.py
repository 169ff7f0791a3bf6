"""The charts of a report: the run's metric, all other metrics as small multiples, training by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..games.base import Facts
from ..system.files import REFUSED, read_json
from ..system.printing import printable
from .curves import LARGE, SMALL, Curve, Level, chart
from .rows import Figure, Figures, Measured, Summary
from .run import benchmarks, figure, metric_names, number, rounds

FIRST = 9  # small multiples shown before the rest is folded away
BINS = 200  # points of a training curve; each is the mean of equally many steps
SHARES = (
    "illegal", "cut", "dead", "distinct_replies", "fork_share", "thought_share", "clipped", "rejected", "padding",
)  # fmt: skip
WATCHED = (
    "entropy", "reply_tokens", "illegal", "cut", "dead", "distinct_replies", "kl", "grad_norm", "ratio", "clipped",
    "mismatch",
)  # fmt: skip
OF_STEPS = ("loss", "lr", "grad_norm")  # training curves shown first
NOT_DRAWN = ("step", "steps", "tokens")


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart with its caption. A large chart also has a `narrow` version for phones."""

    name: str
    note: str
    svg: Markup
    narrow: Markup | None = None


@dataclass(frozen=True, slots=True)
class Panels:
    """Charts to show, charts to fold away, and (name, value) of figures that never changed."""

    shown: list[Panel] = field(default_factory=list)
    more: list[Panel] = field(default_factory=list)
    flat: list[tuple[str, str]] = field(default_factory=list)


def series(data: Summary, facts: Facts | None) -> list[tuple[str, str]]:
    """(style, label) of every kind of curve and line in a run's charts."""
    rows = [measured for row in data.iterations for measured in row.policies.values()]
    found = [("sampled", "sampled"), ("greedy", "greedy")]
    found += [("versus", f"sampled, against the {data.start}")] if any(data.start in row.versus for row in rows) else []
    found += [("benchmark", "benchmark")] if any(row.benchmark for row in rows) else []
    found += [("level", "demonstrators")] if data.demonstrators else []
    lines = {each.key: each.label for name in data.policies for each in _levels(data, measured(data, name), facts)}
    return [*found, *(each for each in lines.items() if each not in found), ("kept", "kept snapshot")]


def headline(data: Summary, policy: str, facts: Facts | None) -> Panel | None:
    """The large chart of the run's metric. In a zero-sum game it shows the figure against the start, for the figure of
    self-play is 0 by symmetry."""
    rows = measured(data, policy)
    curves = _curves(data.metric, rows, data)
    if facts is not None and facts.zero_sum and any(curve.key == "versus" for curve in curves):
        curves = [curve for curve in curves if curve.key == "versus"]
    if not curves:
        return None
    levels = _levels(data, rows, facts)
    drawn = [
        chart(printable(data.metric), curves, levels, kept=data.best, limits=_limits(data.metric, curves), size=size)
        for size in (LARGE, SMALL)
    ]
    return Panel(data.metric, (facts.metrics if facts else {}).get(data.metric, ""), *drawn)


def multiples(data: Summary, policy: str, facts: Facts | None) -> Panels:
    """All other metrics of an evaluation, rates first, and benchmarks."""
    rows, told = measured(data, policy), facts.metrics if facts else {}
    modes = [part for row in rows.values() for part in (row.sampled, row.greedy, row.versus.get(data.start, {}))]
    bounds = facts.ceilings.values() if facts else ()
    names = [name for name in metric_names(modes) if name != data.metric and name not in bounds]
    names.sort(key=lambda name: not name.endswith("_rate"))
    curves = {name: _curves(name, rows, data) for name in names}
    for task, name in benchmarks(row.benchmark for row in rows.values()):
        points = {at: row.benchmark.get(task, {}).get(name) for at, row in rows.items()}
        found = {at: point for at, point in points.items() if point}
        curves[f"{task} {name}"] = [Curve("benchmark", "benchmark", found)]
    levels = {name: [Level("level", "demonstrators", each)] for name, each in data.demonstrators.items()}
    return _sorted(curves, told, data.best, levels)


def learned(data: Summary, policy: str, told: Mapping[str, str]) -> Panels:
    """Share of logs kept by credit, language drift of play and evaluations, and the learner's metrics, by iteration."""
    found: dict[str, dict[int, float]] = {}
    for at, row in measured(data, policy).items():
        parts = {"play": row.play, "language": row.language, "learn": row.learn if at else {}}
        for part, numbers in parts.items():
            for name, value in numbers.items():
                found.setdefault(f"{part}.{name}", {})[at] = value
        if row.play.get("logs"):
            found.setdefault("play.kept_share", {})[at] = row.play["kept"] / row.play["logs"]
    first = ("play.kept_share", "play.entropy", "language.start_logprob", "learn.loss", "play.illegal")
    order = [name for name in first if name in found] + [name for name in found if name not in first]
    curves = {name: [Curve("sampled", name, {at: point(v) for at, v in found[name].items()})] for name in order}
    said = {name: told.get(name.partition(".")[2], "") for name in order}
    said["play.kept_share"] = "share of the policy's logs that credit kept"
    return _sorted(curves, said, data.best, {})


def by_round(run: Path) -> dict[str, list[Panel]]:
    """The numbers that guards watch, by round of self-play, for each policy with several rounds."""
    found = {}
    for policy, rows in rounds(run).items():
        shown = {name: {int(row["round"]): point(row[name]) for row in rows if name in row} for name in WATCHED}
        found[policy] = [
            Panel(name, "", chart(name, curves, across="round", limits=_limits(name, curves)))
            for name, points in shown.items()
            if len(points) > 1 and (curves := [Curve("sampled", name, points)])
        ]
    return {policy: panels for policy, panels in found.items() if panels}


def steps(run: Path, data: Summary, policy: str) -> dict[str, list[Panel]]:
    """Training curves by optimiser step: imitation, and all iterations of self-play joined. A point is the mean of
    several steps, its band their minimum and maximum."""
    later = [run / f"iter_{row.iteration:03d}" / "learn" / policy for row in data.iterations if row.iteration]
    parts = {"imitation": [run / "iter_000" / "start"], "self-play": later}
    found = {}
    for label, folders in parts.items():
        curve = [row for folder in folders for row in _curve(folder / "learn.json")]
        if len(curve) > 1:
            found[label] = [_trained(name, curve) for name in _of_steps(curve)]
    return found


def _curve(path: Path) -> list[dict[str, float]]:
    """The learner's metrics by step; [] if it stored none."""
    try:
        found = read_json(path)["metrics"]["curve"]
        return [{str(key): float(value) for key, value in row.items()} for row in found]
    except (FileNotFoundError, *REFUSED):
        return []


def _of_steps(curve: Sequence[Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for row in curve for name in row if name not in NOT_DRAWN))
    return sorted(names, key=lambda name: OF_STEPS.index(name) if name in OF_STEPS else len(OF_STEPS))


def _trained(name: str, curve: Sequence[Mapping[str, float]]) -> Panel:
    values = [(at, row[name]) for at, row in enumerate(curve) if name in row]
    wide = -(-len(values) // BINS)
    bins = [values[at : at + wide] for at in range(0, len(values), wide)]
    points = {each[len(each) // 2][0]: _binned([value for _, value in each]) for each in bins}
    return Panel(name, "", chart(name, [Curve("sampled", name, points)], across="step"))


def _binned(values: Sequence[float]) -> Figure:
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}


def _sorted(
    curves: Mapping[str, list[Curve]], told: Mapping[str, str], kept: int, levels: Mapping[str, list[Level]]
) -> Panels:
    """The charts of `curves` by name. A value that never changed becomes a figure instead of a chart."""
    made = Panels()
    for name, each in curves.items():
        means = {round(p["mean"], 9) for curve in each for p in curve.points.values()}
        if len(means) < 2 or max(len(curve.points) for curve in each) < 2:
            made.flat.extend([(name, _one(each))] if means - {0.0} else [])
            continue
        drawn = chart(printable(name), each, levels.get(name, ()), kept=kept, limits=_limits(name, each))
        (made.shown if len(made.shown) < FIRST else made.more).append(Panel(name, told.get(name, ""), drawn))
    zero = [name for name, each in curves.items() if not any(p["mean"] for c in each for p in c.points.values())]
    made.flat.extend([(", ".join(zero), "0 throughout")] if zero else [])
    return made


def _one(curves: Iterable[Curve]) -> str:
    """The figures of curves that are constant or have one point."""
    return "; ".join(f"{curve.label} {figure(curve.points[min(curve.points)])}" for curve in curves if curve.points)


def _curves(name: str, rows: Mapping[int, Measured], data: Summary) -> list[Curve]:
    sources: Mapping[str, tuple[str, Callable[[Measured], Figures]]] = {
        "sampled": ("sampled", lambda row: row.sampled),
        "greedy": ("greedy", lambda row: row.greedy),
        "versus": (f"against the {data.start}", lambda row: row.versus.get(data.start, {})),
    }
    found = [
        Curve(key, label, {at: of(row)[name] for at, row in rows.items() if name in of(row)})
        for key, (label, of) in sources.items()
    ]
    return [curve for curve in found if curve.points]


def _levels(data: Summary, rows: Mapping[int, Measured], facts: Facts | None) -> list[Level]:
    """The demonstrators' figure in the run's metric, and its highest possible value."""
    own = data.demonstrators.get(data.metric)
    found = [Level("level", "demonstrators", own)] if own else []
    most = (facts.ceilings if facts else {}).get(data.metric)
    values = [row.sampled[most]["mean"] for row in rows.values() if most in row.sampled] if most else []
    if values:
        found.append(Level("ceiling", "the most that can be reached", point(sum(values) / len(values))))
    return found


def _limits(name: str, curves: Sequence[Curve]) -> tuple[float, float] | None:
    """(0, 1) for a rate or a share, so that small changes look small."""
    last = name.rpartition(".")[2]
    means = [each["mean"] for curve in curves for each in curve.points.values()]
    rate = last.endswith(("_rate", "_share")) or last in SHARES
    return (0.0, 1.0) if rate and min(means) >= 0 and max(means) <= 1 else None


def measured(data: Summary, policy: str) -> dict[int, Measured]:
    """The figures of a policy by iteration."""
    return {row.iteration: row.policies[policy] for row in data.iterations}


def point(value: float) -> Figure:
    """A figure without an interval."""
    return {"mean": value, "low": None, "high": None}


def numbers(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The values of `names`, formatted for a table."""
    return [number(values.get(name)) for name in names]
