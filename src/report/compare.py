"""Paired differences between runs, by seed or by shared scenario, as table, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from .estimates import Estimate, estimate, values
from .rows import Measured, Summary
from .run import episodes, figure, summary
from .table import add_row, blank, by_setting

MODES = ("sampled", "greedy")


@dataclass(frozen=True, slots=True)
class Side:
    """A run and the iteration to compare."""

    path: Path
    iteration: int
    seed: int
    data: Summary

    @property
    def row(self) -> Measured:
        """The figures of the policy that the run is judged by."""
        return self.data.row(self.iteration).policies[self.data.policy]


@dataclass(frozen=True, slots=True)
class Difference:
    """`after` minus `before` in one metric, over `difference.n` pairs of `by` (seeds or scenarios)."""

    metric: str
    mode: str
    before: str
    after: str
    before_mean: float
    after_mean: float
    difference: Estimate
    by: str


def compare(
    runs: Sequence[str | Path], metrics: Sequence[str] | None = None, by: Literal["auto", "seed", "scenario"] = "auto"
) -> list[Difference]:
    """Compares every setting with the first one. Runs that differ only in the seed are one setting.

    A run is given as its directory (the kept iteration) or as `directory@k` (iteration k): [a@0, a] is a run's gain.
    `by="seed"` pairs the means of equal seeds (an interval needs at least two); `by="scenario"` pairs stored matches of
    equal seeds, or of each setting's only run, by scenario id; `by="auto"` pairs by seed from three seeds on.
    ValueError says what cannot be paired.
    """
    sides = [side(run) for run in runs]
    groups = _settings(sides)
    if len(groups) < 2:
        raise ValueError(
            f"there is one setting only ({next(iter(groups), 'none')}): give runs of at least two, or DIR@0 and DIR"
        )
    (first, base), *others = groups.items()
    wanted = list(metrics) if metrics is not None else list(base[0].row.sampled)
    found: list[Difference] = []
    for label, group in others:
        pairs = _pairs(base, group)
        if not pairs:
            raise ValueError(f"{first!r} and {label!r} have no seed in common")
        seeds = by == "seed" or (by == "auto" and len(pairs) >= 3)
        for mode in MODES:
            rows = _by_seed(pairs, mode, wanted) if seeds else _by_scenario(pairs, mode, wanted)
            found += [
                Difference(metric, mode, first, label, *row, "seed" if seeds else "scenario") for metric, row in rows
            ]
    if not found:
        raise ValueError(f"nothing could be paired: no shared scenario is stored with any of {', '.join(wanted)}")
    return found


def side(run: str | Path) -> Side:
    """Reads a run's directory, or `directory@k`. FileNotFoundError or ValueError says what is missing."""
    path, at, number = str(run).rpartition("@")
    if not (at and number.isdecimal()):
        path, number = str(run), ""
    data = summary(Path(path))
    iteration = int(number) if number else data.best
    data.row(iteration)
    return Side(Path(path), iteration, data.seed, data)


def _settings(sides: Sequence[Side]) -> dict[str, list[Side]]:
    """Label -> sides. An iteration given by number is a setting of its own."""
    labels = {path: label for label, paths in by_setting({side.path for side in sides}).items() for path in paths}
    groups: dict[str, list[Side]] = {}
    several = len({labels[side.path] for side in sides}) > 1
    for side in sides:
        numbered = side.iteration != side.data.best or not several
        label = labels[side.path] + (f" @{side.iteration}" if numbered else "")
        groups.setdefault(label, []).append(side)
    return groups


def _pairs(base: Sequence[Side], group: Sequence[Side]) -> list[tuple[Side, Side]]:
    if len(base) == len(group) == 1:
        return [(base[0], group[0])]
    by_seed = {side.seed: side for side in base}
    return [(by_seed[side.seed], side) for side in group if side.seed in by_seed]


def _by_seed(
    pairs: Sequence[tuple[Side, Side]], mode: str, metrics: Iterable[str]
) -> Iterable[tuple[str, tuple[float, float, Estimate]]]:
    for metric in metrics:
        means = [tuple(_mean(side, mode, metric) for side in pair) for pair in pairs]
        known = [(a, b) for a, b in means if a is not None and b is not None]
        if known:
            gains = estimate([b - a for a, b in known], range(len(known)))
            yield metric, (sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known), gains)


def _mean(side: Side, mode: str, metric: str) -> float | None:
    found = side.row.mode(mode).get(metric)
    return None if found is None else float(found["mean"])


def _by_scenario(
    pairs: Sequence[tuple[Side, Side]], mode: str, metrics: Iterable[str]
) -> Iterable[tuple[str, tuple[float, float, Estimate]]]:
    played = [tuple(_averaged(side, mode) for side in pair) for pair in pairs]
    for metric in metrics:
        matched = [
            (before[key][metric], after[key][metric], key[1])
            for before, after in played
            for key in sorted(before.keys() & after.keys())
            if metric in before[key] and metric in after[key]
        ]
        if matched:
            a, b, clusters = zip(*matched, strict=True)
            gains = estimate([after - before for before, after in zip(a, b, strict=True)], clusters)
            yield metric, (sum(a) / len(a), sum(b) / len(b), gains)


def _averaged(side: Side, mode: str) -> dict[tuple[str, str], dict[str, float]]:
    """(scenario, cluster) -> metric -> the mean over its stored matches."""
    columns: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes(side.path, side.iteration, mode):
        for metric, value in values(episode, [side.data.policy]).items():
            columns[episode.scenario.id, episode.scenario.cluster][metric].append(value)
    return {
        key: {metric: sum(column) / len(column) for metric, column in each.items()} for key, each in columns.items()
    }


HEADERS = ("metric", "mode", "setting", "mean", "against", "its mean", "difference", "pairs")


def cells(row: Difference) -> tuple[str, ...]:
    """A difference as text, under `HEADERS`."""
    sign = "+" if row.difference.mean > 0 else ""
    pairs = f"{row.difference.n} {row.by}s"
    return (
        row.metric, row.mode, row.after, f"{row.after_mean:.3f}", row.before, f"{row.before_mean:.3f}",
        sign + figure(row.difference.to_json()), pairs,
    )  # fmt: skip


def as_tables(rows: Sequence[Difference]) -> list[Table]:
    """The differences for a terminal, one table per setting; green or red if the interval excludes 0."""
    made = []
    for label in dict.fromkeys(row.after for row in rows):
        own = [row for row in rows if row.after == label]
        table = blank(f"{label}\nagainst {own[0].before}", ["metric", "mode", "mean", "against", "difference"])
        for row in own:
            style = "green" if row.difference.low > 0 else "red" if row.difference.high < 0 else ""
            metric, mode, _, mean, _, against, gain, _ = cells(row)
            add_row(table, [metric, mode, mean, against, gain], style)
        table.caption = Text(f"{own[0].difference.n} pairs of {own[0].by}s, 95 % intervals")
        made.append(table)
    return made


def as_csv(rows: Sequence[Difference]) -> str:
    """The differences as CSV with a header line, each number in its own column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["metric", "mode", "before", "after", "before_mean", "after_mean", "difference", "low", "high", "pairs", "by"]
    )
    for row in rows:
        gain = row.difference
        writer.writerow(
            [
                row.metric,
                row.mode,
                row.before,
                row.after,
                row.before_mean,
                row.after_mean,
                gain.mean,
                gain.low,
                gain.high,
                gain.n,
                row.by,
            ]
        )
    return out.getvalue()


def as_latex(rows: Sequence[Difference]) -> str:
    """The differences as a LaTeX `tabular` with booktabs rules; text is escaped."""
    lines = [r"\begin{tabular}{lllrlrrr}", r"\toprule", " & ".join(map(latex, HEADERS)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(latex, cells(row))) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Escapes `text` for LaTeX."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found.group()], text)
