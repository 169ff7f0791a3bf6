"""The report: one page that needs no network, no server and no other file. Whatever a model wrote is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..data.episode import Episode
from ..games.base import Message
from ..system.files import write_text
from .choice import choose, worth
from .curves import Curve, chart
from .estimates import values
from .progress import duration
from .run import Figures, benchmarks, entry, figure, metric_names, number, summary
from .transcript import Views, ending, facts, notes, printable, spoken

SHOWN = ("sampled", "greedy")
FIRST_CHARTS = 9
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
        title=_text(f"{data['experiment']}, seed {data['seed']}"),
        subtitle=_subtitle(data),
        tiles=_tiles(data),
        legend=_legend(data),
        curves=_curves(data, told),
        metrics=_metric_tables(data, told),
        transcripts=_transcripts(run, data, views or spoken, transcripts),
        learning=_numbers(data, ("play", "learn", "language"), told),
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


def _subtitle(data: Mapping[str, Any]) -> str:
    count = len(data["iterations"]) - 1
    return _text(
        f"{count} iterations after the start; the snapshot of iteration {data['best']} is kept, chosen on validation."
    )


def _tiles(data: Mapping[str, Any]) -> str:
    main, start, kept = data["metric"], data["iterations"][0], entry(data, data["best"])
    tiles = []
    for mode in SHOWN:
        before, after = ((row.get(mode) or {}).get(main) for row in (start, kept))
        if before and after:
            tiles.append((f"{main}, {mode}: start → kept", f"{before['mean']:.2f} → {after['mean']:.2f}"))
    if gain := data.get("improvement_greedy"):
        tiles.append((f"{main}, greedy: paired gain over the start", figure(gain)))
    if shown := (data.get("demonstrators") or {}).get(main):
        tiles.append((f"{main}, demonstrators", figure(shown)))
    tiles.append(("time", f"{duration(data['seconds'])}, {data['cpu_seconds']:,.0f} CPU-s"))
    return "".join(
        f'<div class="tile"><span class="soft">{_text(name)}</span><b>{_text(value)}</b></div>' for name, value in tiles
    )


# --- curves -----------------------------------------------------------------------------------------------------------


def _legend(data: Mapping[str, Any]) -> str:
    labels = {"sampled": "sampled", "greedy": "greedy"}
    if any(_start(data) in (row.get("versus") or {}) for row in data["iterations"]):
        labels["versus"] = "sampled, versus the start"
    if any(row.get("benchmark") for row in data["iterations"]):
        labels["benchmark"] = "benchmark"
    if data.get("demonstrators"):
        labels["level"] = "demonstrators"
    items = (
        f'<li><svg class="series-{key}" viewBox="0 0 30 10" aria-hidden="true"><line class="line" x1="0" x2="30" '
        f'y1="5" y2="5"/></svg>'
        f"{_text(label)}</li>"
        for key, label in labels.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _curves(data: Mapping[str, Any], definitions: Mapping[str, str]) -> str:
    rows, main = data["iterations"], data["metric"]
    names = metric_names([row.get(mode) or {} for row in rows for mode in SHOWN])
    names.sort(
        key=lambda name: (name != main, not name.endswith("_rate"))
    )  # a stable sort: the file's order within each
    drawn = [_figure(name, rows, data.get("demonstrators") or {}, definitions, _start(data)) for name in names]
    drawn += [_benchmark(task, name, rows) for task, name in benchmarks(rows)]
    first, rest = "".join(drawn[:FIRST_CHARTS]), "".join(drawn[FIRST_CHARTS:])
    more = (
        f'<details><summary>{len(drawn) - FIRST_CHARTS} more</summary><div class="charts">{rest}</div></details>'
        if rest
        else ""
    )
    return f'<div class="charts">{first}</div>{more}'


def _start(data: Mapping[str, Any]) -> str:
    """What the start is called as an opponent; its curve is drawn beside the player's own."""
    return str(data.get("start", "start"))


def _figure(
    name: str, rows: Sequence[Mapping[str, Any]], demonstrators: Figures, definitions: Mapping[str, str], start: str
) -> str:
    sources = {
        "sampled": ("sampled", lambda row: row.get("sampled")),
        "greedy": ("greedy", lambda row: row.get("greedy")),
        "versus": ("versus the start", lambda row: (row.get("versus") or {}).get(start)),
    }
    curves = []
    for key, (label, source) in sources.items():
        points = {row["iteration"]: (source(row) or {})[name] for row in rows if name in (source(row) or {})}
        if points:
            curves.append(Curve(key, label, points))
    drawn = chart(printable(name), curves, demonstrators.get(name), "demonstrators")
    return f"<figure><figcaption><b>{_text(name)}</b> {_text(definitions.get(name, ''))}</figcaption>{drawn}</figure>"


def _benchmark(task: str, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    found = {row["iteration"]: ((row.get("benchmark") or {}).get(task) or {}).get(name) for row in rows}
    points = {iteration: point for iteration, point in found.items() if point}
    drawn = chart(printable(f"{task} {name}"), [Curve("benchmark", "benchmark", points)])
    return f"<figure><figcaption><b>{_text(task)}</b> {_text(name)}</figcaption>{drawn}</figure>"


# --- tables -----------------------------------------------------------------------------------------------------------


def _metric_tables(data: Mapping[str, Any], definitions: Mapping[str, str]) -> str:
    rows = data["iterations"]
    modes: dict[str, dict[int, Figures]] = {}
    for row in rows:
        for mode in ("sampled", "greedy", "validation", "demonstrations", "scores"):
            if row.get(mode):
                modes.setdefault(mode, {})[row["iteration"]] = row[mode]
        for mode, words in (
            ("versus", "sampled, versus"),
            ("versus_greedy", "greedy, versus"),
            ("benchmark", "benchmark"),
        ):
            for opponent, figures in (row.get(mode) or {}).items():
                modes.setdefault(f"{words} {opponent}", {})[row["iteration"]] = figures
    parts = []
    for mode, table in modes.items():
        names = metric_names(list(table.values()))
        labelled = {str(iteration): figures for iteration, figures in table.items()}
        if mode == "sampled" and data.get("demonstrators"):
            labelled["demonstrators"] = data["demonstrators"]
        cells = {label: [figure(figures.get(name)) for name in names] for label, figures in labelled.items()}
        drawn = _table("iteration", names, cells, definitions, str(data["best"]))
        parts.append(
            f"<details{' open' if mode == 'sampled' else ''}><summary>{_text(mode)}</summary>{drawn}</details>"
        )
    return "".join(parts) + _definitions(definitions)


def _definitions(definitions: Mapping[str, str]) -> str:
    if not definitions:
        return ""
    entries = "".join(f"<dt>{_text(name)}</dt><dd>{_text(sentence)}</dd>" for name, sentence in definitions.items())
    return f"<details><summary>what the metrics mean</summary><dl>{entries}</dl></details>"


def _numbers(data: Mapping[str, Any], parts: Iterable[str], definitions: Mapping[str, str]) -> str:
    """The plain numbers of play and learning, one row per iteration."""
    found: dict[str, dict[str, Any]] = {}
    for row in data["iterations"]:
        found[str(row["iteration"])] = {
            f"{part}.{key}": value for part in parts for key, value in (row.get(part) or {}).items()
        }
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    if not names:
        return '<p class="soft">Nothing was learned in this run.</p>'
    cells = {label: [number(row.get(name)) for name in names] for label, row in found.items()}
    told = {name: definitions[name.partition(".")[2]] for name in names if name.partition(".")[2] in definitions}
    return _table("iteration", names, cells, told, str(data["best"]))


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


def _facts(run: Path, data: Mapping[str, Any]) -> str:
    """The manifest in words, and where the time went."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lines = {"experiment": data["experiment"], "seed": data["seed"], **manifest}
    body = "".join(
        f'<tr><td>{_text(key)}</td><td class="words">{_text(_words(value))}</td></tr>' for key, value in lines.items()
    )
    spent = {str(row["iteration"]): row.get("seconds") or {} for row in data["iterations"]}
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


def _transcripts(run: Path, data: Mapping[str, Any], views: Callable[[Episode], Views], count: int) -> str:
    articles, iterations = [], []
    for row in data["iterations"]:
        chosen = choose(run, row["iteration"], data["metric"], count, data["seed"])
        iterations += [row["iteration"]] if chosen else []
        articles += [
            _match(row["iteration"], kind, episode, views(episode), data["metric"]) for kind, episode in chosen
        ]
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
    remarks = notes(episode)
    seats = "".join(
        f'<div class="seat"><h4>{_text(seat)} <span class="soft">{_text(facts(episode, seat))}</span></h4>'
        f"{''.join(_said(message, remarks) for message in view)}</div>"
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


def _said(message: Message, remarks: Mapping[str, str]) -> str:
    remark = remarks.get(message.request or "", "")
    mark = f' <span class="mark">{_text(remark)}</span>' if remark else ""
    words = f'<pre dir="auto">{_text(message.content)}</pre>'
    if message.role == "system":
        unfolded = " open" if len(message.content) <= SHORT else ""
        words = f"<details{unfolded}><summary>what the seat was told at the start</summary>{words}</details>"
    return f'<div class="said {message.role}"><span class="who">{message.role}{mark}</span>{words}</div>'
