"""The report: one page that needs no network, no server and no other file. Whatever a model wrote is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..data.episode import Episode
from ..games.base import Message
from ..system.files import InputError, read_json, write_text
from .choice import choose, worth
from .curves import Curve, chart
from .estimates import values
from .progress import duration
from .rows import Figure, Figures, Measured, Summary
from .run import benchmarks, figure, metric_names, number, rounds, summary
from .transcript import Views, ending, facts, notes, printable, spoken, steps, thoughts
from .verdict import verdicts

SHOWN = ("sampled", "greedy")
FIRST_CHARTS = 9
WATCHED = (
    "entropy", "reply_tokens", "illegal", "cut", "dead", "distinct_replies", "kl", "grad_norm", "ratio", "clipped",
    "mismatch",
)  # fmt: skip
SHORT = 600  # characters of a system message that need no folding


def write(
    run: Path,
    definitions: Mapping[str, str] | None = None,
    views: Callable[[Episode], Views] | None = None,
    transcripts: int = 6,
) -> Path:
    """Writes `report/index.html` of a run directory and returns its path.

    `definitions` say what each metric is. `views` gives the private views of a match (`replay(game, episode).views`);
    without it only what each seat said is shown. `transcripts` are chosen for each iteration: a third the best by the
    run's metric, a third the worst, the rest at random. FileNotFoundError or ValueError where there is no summary.
    """
    data, told = summary(run), dict(definitions or {})
    page = (files(__package__) / "page.html").read_text(encoding="utf-8")
    filled = Template(page).substitute(
        title=_text(f"{data.experiment}, seed {data.seed}"),
        subtitle=_subtitle(data),
        verdict=_verdict(data),
        tiles=_tiles(data),
        legend=_legend(data),
        curves=_each(data, lambda policy: _curves(data, policy, told)),
        metrics=_each(data, lambda policy: _metric_tables(data, policy, told)) + _definitions(told),
        transcripts=_transcripts(run, data, views or spoken, transcripts),
        learning=_alarms(data) + _each(data, lambda policy: _numbers(data, policy, told)) + _by_round(run),
        facts=_facts(run, data),
        script_digest=_digest(page),
    )
    path = run / "report" / "index.html"
    write_text(path, filled)
    return path


def _digest(page: str) -> str:
    """What the page's policy lets run: its own script and no other, should a word of a model ever escape the
    escaping."""
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(value: object) -> str:
    """Any value as text that HTML shows and never obeys, in an attribute too."""
    return escape(printable(str(value)), quote=True)


def _attribute(name: str, value: object) -> str:
    """The attribute ` name="value"`; nothing where there is no value."""
    return "" if value is None else f' {name}="{_text(value)}"'


# --- the head ---------------------------------------------------------------------------------------------------------


def _each(data: Summary, draw: Callable[[str], str]) -> str:
    """What is drawn of each policy, under its name where there are several."""
    heads = {name: f"<h3>{_text(name)}</h3>" if len(data.policies) > 1 else "" for name in data.policies}
    return "".join(head + draw(name) for name, head in heads.items())


def _verdict(data: Summary) -> str:
    return "".join(f'<p class="verdict {each.word}">{_text(each.text)}</p>' for each in verdicts(data))


def _subtitle(data: Summary) -> str:
    count = len(data.iterations) - 1
    return _text(
        f"{count} iterations after the start; the snapshot of iteration {data.best} is kept, chosen on validation."
    )


def _tiles(data: Summary) -> str:
    tiles = [tile for policy in data.policies for tile in _gained(data, policy)]
    if shown := data.demonstrators.get(data.metric):
        tiles.append((f"{data.metric}, demonstrators", figure(shown)))
    tiles.append(("time", f"{duration(data.seconds)}, {data.cpu_seconds:,.0f} CPU-s"))
    return "".join(
        f'<div class="tile"><span class="soft">{_text(name)}</span><b>{_text(value)}</b></div>' for name, value in tiles
    )


def _gained(data: Summary, policy: str) -> Iterator[tuple[str, str]]:
    """What a policy gained from the start to the kept iteration, in the run's metric."""
    main = f"{policy}: {data.metric}" if len(data.policies) > 1 else data.metric
    for mode in SHOWN:
        before, after = (row.policies[policy].mode(mode).get(data.metric) for row in (data.iterations[0], data.kept))
        if before and after:
            yield f"{main}, {mode}: start → kept", f"{before['mean']:.2f} → {after['mean']:.2f}"
    if gain := data.improvement_greedy.get(policy):
        yield f"{main}, greedy: paired gain over the start", figure(gain)


# --- curves -----------------------------------------------------------------------------------------------------------


def _legend(data: Summary) -> str:
    rows = [measured for row in data.iterations for measured in row.policies.values()]
    labels = {"sampled": "sampled", "greedy": "greedy"}
    if any(data.start in row.versus for row in rows):
        labels["versus"] = "sampled, versus the start"
    if any(row.benchmark for row in rows):
        labels["benchmark"] = "benchmark"
    if data.demonstrators:
        labels["level"] = "demonstrators"
    items = (
        f'<li><svg class="series-{key}" viewBox="0 0 30 10" aria-hidden="true"><line class="line" x1="0" x2="30" '
        f'y1="5" y2="5"/></svg>'
        f"{_text(label)}</li>"
        for key, label in labels.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _curves(data: Summary, policy: str, definitions: Mapping[str, str]) -> str:
    rows = _rows(data, policy)
    names = metric_names([row.mode(mode) for row in rows.values() for mode in SHOWN])
    names.sort(
        key=lambda name: (name != data.metric, not name.endswith("_rate"))
    )  # a stable sort: the file's order within each
    drawn = [_figure(name, rows, data, definitions) for name in names]
    drawn += [_benchmark(task, name, rows) for task, name in benchmarks(row.benchmark for row in rows.values())]
    first, rest = "".join(drawn[:FIRST_CHARTS]), "".join(drawn[FIRST_CHARTS:])
    more = (
        f'<details><summary>{len(drawn) - FIRST_CHARTS} more</summary><div class="charts">{rest}</div></details>'
        if rest
        else ""
    )
    return f'<div class="charts">{first}</div>{more}'


def _rows(data: Summary, policy: str) -> dict[int, Measured]:
    """The figures of a policy by iteration."""
    return {row.iteration: row.policies[policy] for row in data.iterations}


def _figure(name: str, rows: Mapping[int, Measured], data: Summary, definitions: Mapping[str, str]) -> str:
    sources: dict[str, tuple[str, dict[int, Figures]]] = {
        "sampled": ("sampled", {at: row.sampled for at, row in rows.items()}),
        "greedy": ("greedy", {at: row.greedy for at, row in rows.items()}),
        "versus": ("versus the start", {at: row.versus.get(data.start, {}) for at, row in rows.items()}),
    }
    curves = []
    for key, (label, found) in sources.items():
        if points := {at: figures[name] for at, figures in found.items() if name in figures}:
            curves.append(Curve(key, label, points))
    drawn = chart(printable(name), curves, data.demonstrators.get(name), "demonstrators")
    return f"<figure><figcaption><b>{_text(name)}</b> {_text(definitions.get(name, ''))}</figcaption>{drawn}</figure>"


def _benchmark(task: str, name: str, rows: Mapping[int, Measured]) -> str:
    found = {iteration: row.benchmark.get(task, {}).get(name) for iteration, row in rows.items()}
    points = {iteration: point for iteration, point in found.items() if point}
    drawn = chart(printable(f"{task} {name}"), [Curve("benchmark", "benchmark", points)])
    return f"<figure><figcaption><b>{_text(task)}</b> {_text(name)}</figcaption>{drawn}</figure>"


# --- tables -----------------------------------------------------------------------------------------------------------


def _metric_tables(data: Summary, policy: str, definitions: Mapping[str, str]) -> str:
    modes: dict[str, dict[int, Figures]] = {}
    for iteration, row in _rows(data, policy).items():
        plain = {mode: getattr(row, mode) for mode in ("sampled", "greedy", "validation", "demonstrations", "scores")}
        nested = (
            ("sampled, versus", row.versus),
            ("greedy, versus", row.versus_greedy),
            ("alone,", row.alone),
            ("benchmark", row.benchmark),
        )
        plain |= {f"{words} {other}": figures for words, part in nested for other, figures in part.items()}
        for mode, figures in plain.items():
            if figures:
                modes.setdefault(mode, {})[iteration] = figures
    parts = []
    for mode, table in modes.items():
        names = metric_names(list(table.values()))
        labelled = {str(iteration): figures for iteration, figures in table.items()}
        if mode == "sampled" and data.demonstrators:
            labelled["demonstrators"] = data.demonstrators
        cells = {label: [figure(figures.get(name)) for name in names] for label, figures in labelled.items()}
        drawn = _table("iteration", names, cells, definitions, str(data.best))
        parts.append(
            f"<details{' open' if mode == 'sampled' else ''}><summary>{_text(mode)}</summary>{drawn}</details>"
        )
    return "".join(parts)


def _definitions(definitions: Mapping[str, str]) -> str:
    if not definitions:
        return ""
    entries = "".join(f"<dt>{_text(name)}</dt><dd>{_text(sentence)}</dd>" for name, sentence in definitions.items())
    return f"<details><summary>what the metrics mean</summary><dl>{entries}</dl></details>"


def _numbers(data: Summary, policy: str, definitions: Mapping[str, str]) -> str:
    """The plain numbers of play and learning, one row per iteration."""
    found: dict[str, dict[str, Any]] = {}
    for iteration, row in _rows(data, policy).items():
        parts = {"play": row.play, "learn": row.learn, "language": row.language}
        found[str(iteration)] = {
            f"{part}.{key}": value for part, numbers in parts.items() for key, value in numbers.items()
        }
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    if not names:
        return '<p class="soft">Nothing was learned in this run.</p>'
    cells = {label: [number(row.get(name)) for name in names] for label, row in found.items()}
    told = {name: definitions[name.partition(".")[2]] for name in names if name.partition(".")[2] in definitions}
    return _table("iteration", names, cells, told, str(data.best))


def _alarms(data: Summary) -> str:
    """What guards said, by iteration."""
    said = [f"<li>iteration {row.iteration}: {_text(text)}</li>" for row in data.iterations for text in row.alarms]
    return f"<h3>Guards</h3><ul>{''.join(said)}</ul>" if said else ""


def _by_round(run: Path) -> str:
    """Curves over rounds of what guards watch, of each policy that played several."""
    parts = []
    for policy, rows in rounds(run).items():
        shown = {name: {int(row["round"]): _point(row[name]) for row in rows if name in row} for name in WATCHED}
        drawn = [
            f"<figure><figcaption><b>{name}</b></figcaption>{chart(name, [Curve('sampled', name, points)])}</figure>"
            for name, points in shown.items()
            if len(points) > 1
        ]
        if drawn:
            head = f"<summary>{_text(policy)}, by round</summary>"
            parts.append(f'<details>{head}<div class="charts">{"".join(drawn)}</div></details>')
    return "".join(parts)


def _point(value: float) -> Figure:
    """A figure whose spread is not known."""
    return {"mean": value, "low": None, "high": None}


def _table(
    corner: str, names: Sequence[str], rows: Mapping[str, Sequence[str]], definitions: Mapping[str, str], kept: str = ""
) -> str:
    heads = "".join(f'<th scope="col"{_attribute("title", definitions.get(name))}>{_text(name)}</th>' for name in names)
    body = "".join(
        f"<tr{' class=kept' if label == kept else ''}><td>{_text(label)}{' (kept)' if label == kept else ''}</td>"
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows.items()
    )
    head = f'<thead><tr><th scope="col">{_text(corner)}</th>{heads}</tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _facts(run: Path, data: Summary) -> str:
    """The manifest in words, and where the time went."""
    path = run / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is no manifest of a run: remove it, and resume={run} writes a new one")
    lines = {"experiment": data.experiment, "seed": data.seed, **manifest}
    body = "".join(
        f'<tr><td>{_text(key)}</td><td class="words">{_text(_words(value))}</td></tr>' for key, value in lines.items()
    )
    spent = {str(row.iteration): row.seconds for row in data.iterations}
    stages = list(dict.fromkeys(stage for row in spent.values() for stage in row))
    cells = {label: [number(row.get(stage)) for stage in stages] for label, row in spent.items()}
    times = f"<h3>Seconds by stage</h3>{_table('iteration', stages, cells, {})}" if stages else ""
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>{times}'


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    if value is None or isinstance(value, bool):
        return "unknown" if value is None else "yes" if value else "no"
    return str(value)


# --- transcripts ------------------------------------------------------------------------------------------------------


def _transcripts(run: Path, data: Summary, views: Callable[[Episode], Views], count: int) -> str:
    articles, iterations = [], []
    for row in data.iterations:
        chosen = choose(run, row.iteration, data.metric, count, data.seed)
        iterations += [row.iteration] if chosen else []
        articles += [_match(row.iteration, kind, episode, views(episode), data.metric) for kind, episode in chosen]
    if not articles:
        return '<p class="soft">No match of this run is stored.</p>'
    return _bar(iterations) + "".join(articles)


def _bar(iterations: Sequence[int]) -> str:
    def pick(name: str, every: str, options: Iterable[object]) -> str:
        entries = "".join(f'<option value="{_text(option)}">{_text(option)}</option>' for option in options)
        return f'<label>{name} <select id="pick-{name}"><option value="">{every}</option>{entries}</select></label>'

    return (
        f'<div class="bar">{pick("iteration", "all", iterations)}{pick("kind", "all", ("best", "worst", "random"))}'
        '<button id="previous" type="button">← previous</button><button id="next" type="button">next →</button>'
        '<span id="place" class="soft" aria-live="polite"></span></div>'
    )


def _match(iteration: int, kind: str, episode: Episode, views: Views, metric: str) -> str:
    remarks, silent = notes(episode), thoughts(episode)
    seats = "".join(
        f'<div class="seat"><h4>{_text(seat)} <span class="soft">{_text(facts(episode, seat))}</span></h4>'
        f"{''.join(_thought(message, silent) + _said(message, remarks) for message in view)}</div>"
        for seat, view in views.items()
    )
    shown = "".join(
        f"<span>{_text(name)} <b>{_text(number(value))}</b></span>" for name, value in values(episode).items() if value
    )
    return (
        f'<article class="match" data-iteration="{iteration}" data-kind="{kind}">'
        f"<h3>iteration {iteration}, {kind}: {_text(metric)} {_text(number(worth(episode, metric)))}, "
        f"{_text(ending(episode))}</h3>"
        f'<p class="soft">match {_text(episode.id)}, scenario {_text(episode.scenario.id)}</p>'
        f'<div class="numbers">{shown}</div><div class="seats">{seats}</div></article>\n'
    )


def _thought(message: Message, silent: Mapping[str, str]) -> str:
    if not (thought := silent.get(message.request or "")):
        return ""
    return (
        f'<details class="said"><summary class="who">thought</summary><pre dir="auto">{_text(thought)}</pre></details>'
    )


def _step(kind: str, text: str) -> str:
    return f'<span class="step {kind}">{_text(text)}</span>' if kind else _text(text)


def _said(message: Message, remarks: Mapping[str, str]) -> str:
    remark = remarks.get(message.request or "", "")
    mark = f' <span class="mark">{_text(remark)}</span>' if remark else ""
    words = f'<pre dir="auto">{"".join(_step(kind, text) for kind, text in steps(message))}</pre>'
    if message.role == "system":
        unfolded = " open" if len(message.content) <= SHORT else ""
        words = f"<details{unfolded}><summary>what the seat was told at the start</summary>{words}</details>"
    return f'<div class="said {message.role}"><span class="who">{message.role}{mark}</span>{words}</div>'
