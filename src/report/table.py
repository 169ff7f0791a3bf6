"""The closing tables: one run by iteration, and the jobs of a sweep by setting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from .progress import duration
from .rows import Figure, Figures, Measured, Summary
from .run import benchmarks, figure, overrides, summary

SHOWN_RATES = 2  # rates shown in an iteration's line and in a table
WIDTH = 80  # most characters per line of a table
SPARKS = "▁▂▃▄▅▆▇█"


def run_table(data: Summary, metrics: Sequence[str] | None = None, policy: str | None = None) -> Table:
    """One row per iteration: the main metric sampled, greedy and against each opponent that all iterations met; rates;
    time.

    Further rows hold the demonstrators' figures and, if scenarios seat a single role, each opponent's own. If the
    demonstrations' source is known, a column shows the snapshot's distance from it (`kl`, nats per demonstration).

    metrics   further columns; None: the first rates (metrics ending in `_rate`) of the summary
    policy    the policy to show; None: the one that the run is judged by
    """
    main, name = data.metric, policy or data.policy
    rows = [row.policies[name] for row in data.iterations]
    further = list(metrics) if metrics is not None else rates(rows[-1].sampled, main)
    opponents = [each for each in _opponents(rows) if sum(each in row.versus for row in rows) > len(rows) / 2]
    below = {head: shown for head, shown in {"demos": data.demonstrators, **rows[0].alone}.items() if shown}
    none = [""] * len(below)

    def column(head: str, each: Callable[[Measured], Figure | None], ends: Sequence[str] = none) -> Column:
        return Column(head, [*(figure(each(row)) for row in rows), *ends])

    numbers = [f"{row.iteration}{' *' if row.iteration == data.best else ''}" for row in data.iterations]
    far = any("kl" in row.demonstrations for row in rows)
    columns = [
        Column("", [*numbers, *below]),
        column(
            f"{main}\nsampled", lambda row: row.sampled.get(main), [figure(each.get(main)) for each in below.values()]
        ),
        column("\ngreedy", lambda row: row.greedy.get(main)),
        *([column("kl to the\nsource", lambda row: row.demonstrations.get("kl"))] if far else []),
        *(column(f"\nversus {each}", _against(each, main)) for each in opponents),
        *(
            column(
                f"{each.removesuffix('_rate')}\nsampled",
                _sampled(each),
                [figure(shown.get(each)) for shown in below.values()],
            )
            for each in further
        ),
    ]
    if _still(rows, main) and opponents:  # in a zero-sum game self-play's mean is always 0
        columns = [columns[0], *columns[3 + far :]]
    columns.append(Column("time", [*(duration(sum(row.seconds.values())) for row in data.iterations), *none]))
    several = f", {name}" if len(data.policies) > 1 else ""
    styles = ["bold green" if row.iteration == data.best else "" for row in data.iterations]
    table = _laid(f"{data.experiment}, seed {data.seed}{several}", columns, [*styles, *("dim" for _ in below)])
    drawn = sparkline([(_judged_of(data, row).get(main) or {}).get("mean") for row in rows])
    table.caption = Text(
        f"{main} {drawn}\n* kept, chosen on validation; intervals at 95 %\n"
        f"{duration(data.seconds)}, {data.cpu_seconds:.0f} CPU-s"
    )
    return table


def _still(rows: Sequence[Measured], metric: str) -> bool:
    """Whether the figure of self-play is 0 at every snapshot, sampled and greedy."""
    figures = [mode[metric]["mean"] for row in rows for mode in (row.sampled, row.greedy) if metric in mode]
    return bool(figures) and not any(figures)


def _against(opponent: str, metric: str) -> Callable[[Measured], Figure | None]:
    return lambda row: row.versus.get(opponent, {}).get(metric)


def _sampled(metric: str) -> Callable[[Measured], Figure | None]:
    return lambda row: row.sampled.get(metric)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its head (one or more lines) and its cells."""

    head: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        return max(cell_len(line) for line in [*self.head.split("\n"), *self.cells])


def _laid(title: str, columns: Sequence[Column], styles: Sequence[str]) -> Table:
    """Lays out a table that fits `WIDTH`. Columns that do not fit are dropped from the right, but never the first two
    and the time."""
    shown = list(columns)
    while len(shown) > 3 and sum(each.width + 3 for each in shown) + 1 > WIDTH:
        del shown[-2]
    table = blank(title, [each.head for each in shown])
    for at, style in enumerate(styles):
        add_row(table, [each.cells[at] for each in shown], style)
    return table


def sparkline(values: Sequence[float | None]) -> str:
    """One block character per value, scaled from the smallest to the largest; a space for None."""
    found = [value for value in values if value is not None]
    if not found:
        return ""
    least, span = min(found), (max(found) - min(found)) or 1.0
    top = len(SPARKS) - 1
    return "".join(" " if value is None else SPARKS[round((value - least) / span * top)] for value in values)


def yardstick_table(data: Summary, policy: str | None = None) -> Table | None:
    """The main metric of the start and of the kept snapshot against each opponent that both met; None if they met
    none."""
    name = policy or data.policy
    start, kept = data.iterations[0].policies[name], data.kept.policies[name]
    both = [each for each in start.versus if each in kept.versus]
    if not both or data.best == data.iterations[0].iteration:
        return None
    several = f" ({name})" if len(data.policies) > 1 else ""
    table = blank(
        f"{data.metric} against the game's scripts{several}",
        ["opponent", "start\nsampled", "\ngreedy", "kept\nsampled", "\ngreedy"],
    )
    for each in both:
        found = [part.get(each, {}) for row in (start, kept) for part in (row.versus, row.versus_greedy)]
        add_row(table, [each, *(figure(figures.get(data.metric)) for figures in found)], "")
    return table


def benchmark_table(title: str, rows: Mapping[str, Mapping[str, Figures]]) -> Table:
    """A row per task and metric, a column per snapshot. `rows`: snapshot -> task -> metric -> figure."""
    table = blank(title, ["task", "metric", *rows])
    for task, name in benchmarks(rows.values()):
        add_row(table, [task, name, *(figure((figures.get(task) or {}).get(name)) for figures in rows.values())])
    return table


def _opponents(rows: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.versus))


def rates(figures: Figures, main: str) -> list[str]:
    """The first metrics with a rate's name, other than the main one."""
    return [name for name in figures if name.endswith("_rate") and name != main][:SHOWN_RATES]


def sweep_table(jobs: Iterable[Path]) -> Table:
    """One row per setting of a sweep: mean and standard deviation over seeds, of the kept iteration and of the start.

    Jobs without a summary (failed or unfinished) are named in the caption. FileNotFoundError if no job has one.
    """
    jobs = sorted(jobs, key=lambda job: (len(job.name), job))
    finished = {job: summary(job) for job in jobs if (job / "summary.json").exists()}
    if not finished:
        raise FileNotFoundError(f"none of the {len(jobs)} jobs has a summary.json; see their logs for why they failed")
    groups = by_setting(finished)
    first = next(iter(finished.values()))
    main, further = first.metric, rates(_judged(first).sampled, first.metric)
    found = [(each, sorted((finished[job] for job in members), key=_seed)) for each, members in groups.items()]
    columns = [
        Column("setting", [label for label, _ in found]),
        Column(f"{main}\nkept", [_spread(runs, "sampled", main) for _, runs in found]),
        Column("seeds", [_seeds(runs) for _, runs in found]),
        Column("\nstart", [_spread(runs, "sampled", main, start=True) for _, runs in found]),
        Column("\nkept, greedy", [_spread(runs, "greedy", main) for _, runs in found]),
        *(Column(f"{name}\nkept", [_spread(runs, "sampled", name) for _, runs in found]) for name in further),
        Column("time", [duration(fmean(run.seconds for run in runs)) for _, runs in found]),
    ]
    table = _laid("sweep", columns, ["" for _ in found])
    lost = [str(job) for job in jobs if job not in finished]
    caption = "mean ± standard deviation over seeds; kept iteration, chosen on validation; mean time of a job"
    table.caption = Text(
        caption + (f"; {len(lost)} of {len(jobs)} jobs have no summary: {', '.join(lost)}" if lost else "")
    )
    return table


def by_setting(runs: Iterable[Path]) -> dict[str, list[Path]]:
    """Label -> runs that differ only in the seed. The label holds the overrides in which settings differ, with keys as
    short as is unambiguous (`lr=0.001` for `learner.optimizer.lr=0.001`); a single setting is labelled with its
    experiment."""
    words = {
        run: tuple(word for word in overrides(run) if word.lstrip("+").partition("=")[0] != "seed") for run in runs
    }
    shared = set.intersection(*(set(found) for found in words.values()))
    short = _shortened({word for found in words.values() for word in found})
    groups: dict[str, list[Path]] = defaultdict(list)
    for run, found in words.items():
        own = " ".join(short[word] for word in found if word not in shared)
        groups[own or " ".join(short[word] for word in found) or summary(run).experiment].append(run)
    if len(groups) == 1:
        (members,) = groups.values()
        return {summary(members[0]).experiment: members}
    return dict(groups)


def _shortened(words: Iterable[str]) -> dict[str, str]:
    """Shortens each `a.b.key=value` to the fewest last parts of its key that differ from all other keys."""
    parts = {word: word.lstrip("+").partition("=") for word in words}
    keys = {key for key, _, _ in parts.values()}
    ends = Counter(ending for key in keys for ending in _endings(key))
    short = {key: next((each for each in _endings(key) if ends[each] == 1), key) for key in keys}
    return {word: short[key] + sign + value for word, (key, sign, value) in parts.items()}


def _endings(key: str) -> list[str]:
    """`c`, `b.c`, `a.b.c` of `a.b.c`."""
    names = key.split(".")
    return [".".join(names[at:]) for at in range(len(names) - 1, -1, -1)]


def _judged_of(data: Summary, row: Measured) -> Figures:
    """The figures that judge a run."""
    return row.versus.get(data.start, {}) if data.gains else row.sampled


def _judged(run: Summary, start: bool = False) -> Measured:
    """The figures of the policy that judges a run, in the kept row or the start's."""
    return (run.iterations[0] if start else run.kept).policies[run.policy]


def _spread(runs: Sequence[Summary], mode: str, metric: str, start: bool = False) -> str:
    found = [_judged(run, start).mode(mode) for run in runs]
    means = [figures[metric]["mean"] for figures in found if metric in figures]
    if not means:
        return "–"
    if len(means) == 1:
        return f"{means[0]:.3f}"
    return f"{fmean(means):.3f} ±{stdev(means):.3f}"


def _seed(run: Summary) -> int:
    return run.seed


def _seeds(runs: Sequence[Summary]) -> str:
    """The seeds, or their number if there are many."""
    told = ", ".join(str(run.seed) for run in runs)
    return told if len(told) <= 12 else f"{len(runs)} seeds"


def blank(title: str, headers: Sequence[str]) -> Table:
    """A table without rows: text in the first column, numbers in the others."""
    table = Table(title=Text(title), title_justify="left", caption_justify="left", header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(Text(header), justify="left" if index == 0 else "right", overflow="fold", vertical="bottom")
    return table


def add_row(table: Table, cells: Sequence[str], style: str = "") -> None:
    """Adds one row of plain text, never read as markup."""
    table.add_row(*(Text(cell) for cell in cells), style=style)


def figures_table(title: str, figures: Figures) -> Table:
    """One row per metric."""
    table = blank(title, ["metric", "mean, 95 %"])
    for name, value in figures.items():
        add_row(table, [name, figure(value)], "")
    return table


def tournament_table(figures: Mapping[str, Mapping[str, Figures]], metric: str) -> Table:
    """The row player's `metric` against the column's player."""
    opponents = list(dict.fromkeys(name for row in figures.values() for name in row))
    table = blank(f"{metric} of the row's player against the column's", ["", *opponents])
    for name, row in figures.items():
        add_row(table, [name, *(figure(row.get(other, {}).get(metric)) for other in opponents)], "")
    return table
