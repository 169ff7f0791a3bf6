"""Reads a run directory (summary, command, stored matches), and formats figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..data.episode import Episode
from ..data.store import EpisodeStore
from ..system.files import REFUSED, InputError, read_json, read_jsonl, read_text, reason
from .rows import Figure, Figures, Summary

ROUNDS = "rounds.jsonl"  # one line per policy and round of self-play


def summary(run: Path) -> Summary:
    """Reads `summary.json` of a run. FileNotFoundError or InputError says what is missing and what to do."""
    path = run / "summary.json"
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{run} has no summary.json: it is no run directory, or its run is not finished (resume={run})"
        ) from None
    except InputError as error:
        raise InputError(f"{error}; resume={run} writes it anew") from None
    if not isinstance(data, dict) or not isinstance(data.get("iterations"), list) or not data["iterations"]:
        raise InputError(f"{path} lists no iterations; resume={run} writes it anew")
    try:
        return Summary.from_json(data)
    except REFUSED as error:
        raise InputError(f"{path} is no summary ({reason(error)}); resume={run} writes it anew") from None


def rounds(run: Path) -> dict[str, list[dict[str, float]]]:
    """Policy -> the numbers of its rows in `rounds.jsonl`; {} if the file is missing. InputError names a bad line."""
    path, found = run / ROUNDS, dict[str, list[dict[str, float]]]()
    for policy, numbers in read_jsonl(path, _numbers) if path.exists() else ():
        found.setdefault(policy, []).append(numbers)
    return found


def _numbers(row: Any) -> tuple[str, dict[str, float]]:
    finite = {name: value for name, value in row.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    return str(row["policy"]), {**finite, "round": int(row["round"])}


def overrides(run: Path) -> tuple[str, ...]:
    """The overrides (`key=value`) that Hydra composed the run from; () if it kept no record."""
    path = run / ".hydra" / "overrides.yaml"
    try:
        words = yaml.safe_load(read_text(path)) if path.exists() else None
    except (InputError, yaml.YAMLError):
        return ()
    return tuple(word for word in map(str, words) if not word.endswith("=of_run")) if isinstance(words, list) else ()


def episodes(run: Path, iteration: int, what: str) -> Iterator[Episode]:
    """The stored matches `iter_NNN/eval/<what>` of an iteration; none if they were not played, or pruned."""
    folder = run / f"iter_{iteration:03d}" / "eval" / what
    if folder.is_dir():
        yield from EpisodeStore(folder, shard=None).read()


def without_aliases(text: str) -> str:
    """Returns `text` unless it is YAML with aliases: a few lines of them can fill the memory, and parley never writes
    them. InputError for aliases; yaml.YAMLError for invalid YAML."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise InputError("holds aliases")
    return text


def metric_names(tables: Sequence[Figures]) -> list[str]:
    """Every metric in the tables, in order of first appearance."""
    return list(dict.fromkeys(name for table in tables for name in table))


def benchmarks(rows: Iterable[Mapping[str, Figures]]) -> list[tuple[str, str]]:
    """(task, metric) of every benchmark figure in `rows` (task -> metric -> figure)."""
    return list(dict.fromkeys((task, name) for row in rows for task, figures in row.items() for name in figures))


def number(value: Any) -> str:
    """Formats a number for a table: whole numbers in full, others with at most three decimals; a dash for None."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def figure(value: Figure | None) -> str:
    """Formats a figure: `mean ±half`; `mean [low, high]` if the interval is asymmetric; the mean alone if it is
    unknown."""
    if not value:
        return "–"
    mean, low, high = value["mean"], value["low"], value["high"]
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{mean:.3f}"
    places = 3 if max(abs(mean), high - low) < 2 else 2
    if abs((high - mean) - (mean - low)) > 0.02 * (high - low) + 1e-5:
        return f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]"
    return f"{mean:.{places}f} ±{(high - low) / 2:.{places}f}"
