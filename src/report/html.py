"""The report: one HTML page that needs no network, server or other file. Text written by models is escaped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.episode import Episode
from ..games.base import Facts
from ..system.files import InputError, read_json, read_text, write_text
from . import panels
from .gallery import Entry, Pair, Viewed, entries, entry, fitting, pairs
from .pages import render
from .panels import measured, numbers
from .progress import duration
from .redact import masked
from .rows import Figures, Row, Summary
from .run import figure, metric_names, number, overrides, summary
from .transcript import spoken
from .verdict import Verdict, verdicts

ROWS = 24  # most rows of a table by iteration; a longer run shows some of its iterations
PATH = Path("report") / "index.html"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: column heads with their explanations, and rows of label, cells and whether it is kept."""

    corner: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[str], bool]]


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended before its last iteration: the error `text`, and from its last round the outcomes, the illegal
    replies by reason, and one match."""

    text: str
    round: str = ""
    outcomes: Sequence[tuple[str, int]] = ()
    refusals: Sequence[tuple[str, int]] = ()
    example: Entry | None = None


class Report:
    """The report of the run directory `run`. It may be written repeatedly; each match is read once.

    facts        the game's facts: meaning and bounds of each metric
    views        returns the private views of a match (`replay(game, episode).views`); None: only replies are shown
    transcripts  matches to show per iteration: a third the best by the run's metric, a third the worst, the rest random
    """

    def __init__(
        self, run: Path, facts: Facts | None = None, views: Viewed | None = None, transcripts: int = 6
    ) -> None:
        self.run, self.facts, self.viewed, self.transcripts = run, facts, views or spoken, transcripts
        self._entries: dict[int, list[Entry]] = {}
        self._pairs: tuple[tuple[int, int], list[Pair]] | None = None

    def write(self, data: Summary, planned: int | None = None, stop: Stop | None = None) -> Path:
        """Writes `report/index.html` with the figures so far and returns its path. `planned` is the number of
        iterations if the run is not finished."""
        told = self.facts.metrics if self.facts else {}
        found, left_out = self._chosen(data)
        page = render(
            "page.html",
            title=f"{data.experiment}, seed {data.seed}",
            data=data,
            stop=stop,
            verdicts=_verdicts(data, planned, stop),
            subtitle=_subtitle(data, planned),
            tiles=_tiles(data),
            series=panels.series(data, self.facts),
            policies=[self._policy(data, policy, told) for policy in data.policies],
            pairs=self._ends(data),
            entries=[each.to_json() for each in found],
            left_out=left_out,
            alarms=[(row.iteration, text) for row in data.iterations for text in row.alarms],
            rounds=panels.by_round(self.run),
            definitions=told,
            facts=_facts(self.run, data),
            overrides=overrides(self.run),
            config=_config(self.run),
            costs=_costs(data),
            seconds=_seconds(data),
            demonstrated=_demonstrated(data),
        )
        write_text(self.path, page)
        return self.path

    @property
    def path(self) -> Path:
        """The report's file."""
        return self.run / PATH

    def worst(self, iteration: int) -> str | None:
        """The id of the worst match that the page shows of an iteration; None if it shows none."""
        found = [each for each in self._entries.get(iteration, ()) if each.kind == "worst"]
        return min(found, key=lambda each: each.value).match if found else None

    def stopped(self, text: str, stage: str, matches: Iterable[Episode], data: Summary) -> Stop:
        """Summarises the round `stage` with its `matches`, for a run that stopped with the error `text`."""
        outcomes, refusals = Counter[str](), Counter[str]()
        example: Episode | None = None
        for episode in matches:
            outcomes[episode.result.outcome] += 1
            refusals.update(_reasons(episode))
            example = example or episode
        if example is None:
            return Stop(text, stage)
        at = len(data.iterations)
        shown = entry(self.run, at, "of this round", example, self.viewed(example), data.metric)
        return Stop(text, stage, outcomes.most_common(), refusals.most_common(), shown)

    def _policy(self, data: Summary, policy: str, told: Mapping[str, str]) -> dict[str, Any]:
        """The charts and tables of one policy."""
        return {
            "name": policy if len(data.policies) > 1 else "",
            "headline": panels.headline(data, policy, self.facts),
            "multiples": panels.multiples(data, policy, self.facts),
            "learned": panels.learned(data, policy, told),
            "steps": panels.steps(self.run, data, policy),
            "tables": _tables(data, policy, told),
            "numbers": _numbers(data, policy, told),
        }

    def _chosen(self, data: Summary) -> tuple[list[Entry], int]:
        """(the matches of the list, how many do not fit)."""
        for row in data.iterations:
            if row.iteration not in self._entries:
                self._entries[row.iteration] = entries(
                    self.run, row.iteration, data.metric, self.transcripts, data.seed, self.viewed
                )
        return fitting(self._entries, (data.iterations[0].iteration, data.best, data.iterations[-1].iteration))

    def _ends(self, data: Summary) -> list[Pair]:
        """Scenarios at the start and in the kept iteration (the last one if the start is kept)."""
        first, last = data.iterations[0].iteration, data.iterations[-1].iteration
        ends = (first, data.best if data.best != first else last)
        if ends[0] == ends[1]:
            return []
        if self._pairs is None or self._pairs[0] != ends:
            self._pairs = ends, pairs(self.run, ends, data.metric, self.viewed)
        return self._pairs[1]


def write(run: Path, facts: Facts | None = None, views: Viewed | None = None, transcripts: int = 6) -> Path:
    """Writes the report of a finished run (see `Report`). FileNotFoundError or ValueError if it has no summary."""
    return Report(run, facts, views, transcripts).write(summary(run))


def _reasons(episode: Episode) -> Counter[str]:
    """Counts the illegal replies of a match by the game's reason."""
    refused = [request for seat in episode.players for request in episode.refused(seat)]
    marks = episode.result.marks
    return Counter(", ".join(str(value) for value in marks.get(each, {}).values()) or "illegal" for each in refused)


# --- the head ---------------------------------------------------------------------------------------------------------


def _verdicts(data: Summary, planned: int | None, stop: Stop | None) -> list[Verdict]:
    if stop is not None:
        number = data.iterations[-1].iteration + 1
        return [Verdict("worse", f"It stopped in iteration {number}: {stop.text.splitlines()[0]}.".replace("..", "."))]
    if planned is not None:
        at = data.iterations[-1].iteration
        return [Verdict("unclear", f"It is at work: {at} of {planned} iterations are done."), *_so_far(data)]
    return list(verdicts(data))


def _so_far(data: Summary) -> list[Verdict]:
    return list(verdicts(data)) if len(data.iterations) > 1 else []


def _subtitle(data: Summary, planned: int | None) -> str:
    count = len(data.iterations) - 1
    told = "the best so far is that of" if planned is not None else "kept is the snapshot of"
    return f"{count} iteration{'s' * (count != 1)} after the start; {told} iteration {data.best}, chosen on validation."


def _tiles(data: Summary) -> list[tuple[str, str]]:
    tiles = []
    for policy in data.policies:
        main = f"{policy}: {data.metric}" if len(data.policies) > 1 else data.metric
        for mode in ("sampled", "greedy"):
            before, after = (
                row.policies[policy].mode(mode).get(data.metric) for row in (data.iterations[0], data.kept)
            )
            if before and after:
                tiles.append((f"{main}, {mode}: start → kept", f"{before['mean']:.2f} → {after['mean']:.2f}"))
        if gain := data.gains.get(policy, {}).get(data.metric):
            tiles.append((f"{main}, against the {data.start}: paired gain", figure(gain)))
        if gain := data.improvement_greedy.get(policy):
            tiles.append((f"{main}, greedy: paired gain over the start", figure(gain)))
    if shown := data.demonstrators.get(data.metric):
        tiles.append((f"{data.metric}, demonstrators", figure(shown)))
    return [*tiles, ("time", f"{duration(data.seconds)}, {data.cpu_seconds:,.0f} CPU-s")]


# --- tables -----------------------------------------------------------------------------------------------------------


def _thinned(data: Summary) -> list[Row]:
    """The rows of a table: all of a short run; otherwise the first, the kept, the last and some in between."""
    every = -(-len(data.iterations) // ROWS)
    ends = {data.best, data.iterations[-1].iteration}
    return [row for at, row in enumerate(data.iterations) if at % every == 0 or row.iteration in ends]


def _by_iteration(data: Summary, cells: Mapping[int, Sequence[str]], heads: Sequence[tuple[str, str]]) -> Table:
    kept = {at: at == data.best for at in cells}
    rows = [(f"{at} (kept)" if kept[at] else str(at), each, kept[at]) for at, each in cells.items()]
    return Table("iteration", heads, rows)


def _tables(data: Summary, policy: str, told: Mapping[str, str]) -> list[tuple[str, Table]]:
    """A table of figures for each way of playing."""
    modes: dict[str, dict[int, Figures]] = defaultdict(dict)
    for iteration in _thinned(data):
        row = iteration.policies[policy]
        plain = {mode: getattr(row, mode) for mode in ("sampled", "greedy", "validation", "demonstrations", "scores")}
        nested = (
            ("sampled, against", row.versus),
            ("greedy, against", row.versus_greedy),
            ("alone,", row.alone),
            ("benchmark", row.benchmark),
        )
        plain |= {f"{words} {other}": figures for words, part in nested for other, figures in part.items()}
        for mode, figures in plain.items():
            if figures:
                modes[mode][iteration.iteration] = figures
    return [(mode, _mode(data, mode, table, told)) for mode, table in modes.items()]


def _mode(data: Summary, mode: str, table: Mapping[int, Figures], told: Mapping[str, str]) -> Table:
    names = metric_names(list(table.values()))
    cells = {at: [figure(figures.get(name)) for name in names] for at, figures in table.items()}
    made = _by_iteration(data, cells, [(name, told.get(name, "")) for name in names])
    if mode == "sampled" and data.demonstrators:
        demos = ("demonstrators", [figure(data.demonstrators.get(name)) for name in names], False)
        return Table(made.corner, made.heads, [*made.rows, demos])
    return made


def _numbers(data: Summary, policy: str, told: Mapping[str, str]) -> Table | None:
    """The numbers of play and learning, one row per iteration."""
    found: dict[int, dict[str, Any]] = {}
    for at, row in measured(data, policy).items():
        parts = {"play": row.play, "learn": row.learn, "language": row.language}
        found[at] = {f"{part}.{key}": value for part, each in parts.items() for key, value in each.items()}
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    if not names:
        return None
    cells = {row.iteration: numbers(found[row.iteration], names) for row in _thinned(data)}
    return _by_iteration(data, cells, [(name, told.get(name.partition(".")[2], "")) for name in names])


def _demonstrated(data: Summary) -> str:
    return figure(data.demonstrators.get(data.metric)) if data.demonstrators else ""


# --- the run ----------------------------------------------------------------------------------------------------------


def _facts(run: Path, data: Summary) -> list[tuple[str, str]]:
    """The manifest as (name, text)."""
    path = run / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is not a run's manifest: remove it, and resume={run} writes a new one")
    lines = {"experiment": data.experiment, "seed": data.seed, **manifest}
    return [(str(key), _words(value)) for key, value in lines.items()]


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    if value is None or isinstance(value, bool):
        return "unknown" if value is None else "yes" if value else "no"
    return str(value)


def _config(run: Path) -> str:
    """The config the run began with, logins and keys masked; "" if the file is missing."""
    path = run / "config.yaml"
    return masked(read_text(path)) if path.exists() else ""


def _costs(data: Summary) -> list[tuple[str, str, int]]:
    """(stage, time, share in %) of the stages over all iterations, the longest first."""
    spent: dict[str, float] = defaultdict(float)
    for row in data.iterations:
        for stage, seconds in row.seconds.items():
            spent[stage.partition("/")[0]] += seconds
    whole = sum(spent.values()) or 1.0
    order = sorted(spent.items(), key=lambda each: -each[1])
    return [(stage, duration(seconds), round(100 * seconds / whole)) for stage, seconds in order]


def _seconds(data: Summary) -> Table | None:
    """Seconds of each stage by iteration."""
    rows = {row.iteration: row.seconds for row in _thinned(data)}
    stages = list(dict.fromkeys(stage for row in rows.values() for stage in row))
    cells = {at: [number(row.get(stage)) for stage in stages] for at, row in rows.items()}
    return _by_iteration(data, cells, [(stage, "") for stage in stages]) if stages else None
