"""The closing tables: one run by iteration, and the jobs of a sweep by setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table
from rich.text import Text

from .progress import duration
from .rows import Figures, Measured, Summary
from .run import benchmarks, figure, overrides, summary

SHOWN_RATES = 2  # what fits 80 columns


def run_table(data: Summary, metrics: Sequence[str] | None = None, policy: str | None = None) -> Table:
    """One row per iteration of a summary: the main metric sampled, greedy and against whom every iteration met, rates,
    time.

    Below stand the demonstrators and, where a scenario seats one role alone, each opponent in it. Where the
    demonstrations' source is known, how far the snapshot is from it, too (`kl`, nats per demonstration).
    `metrics` names the further columns; the default are the first rates (names in `_rate`) that the summary holds.
    `policy` says whose figures (None: those of the policy that the run is judged by).
    """
    main, name = data.metric, policy or data.policy
    rows = [row.policies[name] for row in data.iterations]
    further = list(metrics) if metrics is not None else rates(rows[-1].sampled, main)
    opponents = [each for each in _opponents(rows) if sum(each in row.versus for row in rows) > len(rows) / 2]
    headers = ["", f"{main}\nsampled", "\ngreedy", *(f"\nversus {each}" for each in opponents)]
    headers += [f"{each.removesuffix('_rate')}\nsampled" for each in further]
    far = any("kl" in row.demonstrations for row in rows)
    several = f", {name}" if len(data.policies) > 1 else ""
    table = blank(
        f"{data.experiment}, seed {data.seed}{several}", [*headers, *(["kl to the\nsource"] if far else []), "time"]
    )
    for iteration, row in zip(data.iterations, rows, strict=True):
        cells = [figure(row.sampled.get(main)), figure(row.greedy.get(main))]
        cells += [figure(row.versus.get(each, {}).get(main)) for each in opponents]
        cells += [figure(row.sampled.get(each)) for each in further]
        cells += [figure(row.demonstrations.get("kl"))] if far else []
        best = iteration.iteration == data.best
        head, took = f"{iteration.iteration}{' *' if best else ''}", duration(sum(iteration.seconds.values()))
        add_row(table, [head, *cells, took], "bold green" if best else "")
    gap, end = [""] * (1 + len(opponents)), [""] * (1 + far)
    for head, shown in {"demos": data.demonstrators, **rows[0].alone}.items():
        if shown:
            cells = [figure(shown.get(main)), *gap, *(figure(shown.get(each)) for each in further)]
            add_row(table, [head, *cells, *end], "dim")
    table.caption = Text(
        f"* kept, chosen on validation; intervals at 95 %; {duration(data.seconds)}, {data.cpu_seconds:.0f} CPU-s"
    )
    return table


def yardstick_table(data: Summary, policy: str | None = None) -> Table | None:
    """The main metric of the start and of the kept snapshot against each opponent that both met; None where there is
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
    """A row for each task and metric, a column for each snapshot; `rows` are task -> metric -> figure, by snapshot."""
    table = blank(title, ["task", "metric", *rows])
    for task, name in benchmarks(rows.values()):
        add_row(table, [task, name, *(figure((figures.get(task) or {}).get(name)) for figures in rows.values())])
    return table


def _opponents(rows: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.versus))


def rates(figures: Figures, main: str) -> list[str]:
    """The first metrics that are rates by name, other than the main one."""
    return [name for name in figures if name.endswith("_rate") and name != main][:SHOWN_RATES]


def sweep_table(jobs: Iterable[Path]) -> Table:
    """One row per setting of a multirun: mean and spread over its seeds, of the kept iteration and of the start.

    Jobs without a summary (failed or unfinished) are counted in the caption, never left out in silence.
    """
    jobs = sorted(jobs)
    finished = {job: summary(job) for job in jobs if (job / "summary.json").exists()}
    if not finished:
        raise FileNotFoundError(f"none of the {len(jobs)} jobs has a summary.json; see their logs for why they failed")
    groups = by_setting(finished)
    first = next(iter(finished.values()))
    main, further = first.metric, rates(_judged(first).sampled, first.metric)
    headers = [
        "setting",
        "seeds",
        f"{main}\nstart",
        "\nkept",
        "\nkept, greedy",
        *(f"{name}\nkept" for name in further),
        "time",
    ]
    table = blank("sweep", headers)
    for label, members in groups.items():
        runs = [finished[job] for job in members]
        cells = [
            _spread(runs, "sampled", main, start=True),
            _spread(runs, "sampled", main),
            _spread(runs, "greedy", main),
        ]
        cells += [_spread(runs, "sampled", name) for name in further]
        seeds = ", ".join(str(run.seed) for run in runs)
        add_row(table, [label, seeds, *cells, duration(fmean(run.seconds for run in runs))])
    lost = [str(job) for job in jobs if job not in finished]
    caption = (
        "mean ± standard deviation over seeds [least, most]; kept iteration, chosen on validation; mean time of a job"
    )
    table.caption = Text(
        caption + (f"; {len(lost)} of {len(jobs)} jobs have no summary: {', '.join(lost)}" if lost else "")
    )
    return table


def by_setting(runs: Iterable[Path]) -> dict[str, list[Path]]:
    """Runs that differ in nothing but the seed, under a label of the words in which the settings differ."""
    words = {
        run: tuple(word for word in overrides(run) if word.lstrip("+").partition("=")[0] != "seed") for run in runs
    }
    shared = set.intersection(*(set(found) for found in words.values()))
    groups: dict[str, list[Path]] = defaultdict(list)
    for run, found in words.items():
        own = " ".join(word for word in found if word not in shared)
        groups[own or " ".join(found) or summary(run).experiment].append(run)
    return dict(groups)


def _judged(run: Summary, start: bool = False) -> Measured:
    """The policy by which a run is judged, in the kept row or in that of the start."""
    return (run.iterations[0] if start else run.kept).policies[run.policy]


def _spread(runs: Sequence[Summary], mode: str, metric: str, start: bool = False) -> str:
    found = [_judged(run, start).mode(mode) for run in runs]
    means = [figures[metric]["mean"] for figures in found if metric in figures]
    if not means:
        return "–"
    if len(means) == 1:
        return f"{means[0]:.3f}"
    return f"{fmean(means):.3f} ±{stdev(means):.3f} [{min(means):.2f}, {max(means):.2f}]"


def blank(title: str, headers: Sequence[str]) -> Table:
    """A table without rows; the first column is words, the others are figures."""
    table = Table(title=Text(title), title_justify="left", caption_justify="left", header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(Text(header), justify="left" if index == 0 else "right", overflow="fold", vertical="bottom")
    return table


def add_row(table: Table, cells: Sequence[str], style: str = "") -> None:
    """Adds one row of plain text, of which nothing is read as markup."""
    table.add_row(*(Text(cell) for cell in cells), style=style)


def figures_table(title: str, figures: Figures) -> Table:
    """One row per metric."""
    table = blank(title, ["metric", "mean, 95 %"])
    for name, value in figures.items():
        add_row(table, [name, figure(value)], "")
    return table


def tournament_table(figures: Mapping[str, Mapping[str, Figures]], metric: str) -> Table:
    """Who plays (rows) against whom (columns): the row player's `metric`."""
    opponents = list(dict.fromkeys(name for row in figures.values() for name in row))
    table = blank(f"{metric} of the row's player against the column's", ["", *opponents])
    for name, row in figures.items():
        add_row(table, [name, *(figure(row.get(other, {}).get(metric)) for other in opponents)], "")
    return table
