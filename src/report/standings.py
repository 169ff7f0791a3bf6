"""Ratings and the table behind them: at the terminal, as CSV and LaTeX, and as a page with a heat map."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from math import isnan
from pathlib import Path

from rich.table import Table

from ..system.files import write_json, write_text
from .compare import latex
from .ratings import CYCLIC, Ratings

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .6rem; text-align: right; border: 1px solid #ddd; }
th { font-weight: 600; background: #f5f5f5; }
td.name { text-align: left; }
td.none { background: #f5f5f5; }
.note { background: #fff4d6; border-left: 4px solid #d9a300; padding: .5rem 1rem; }
"""


MISLEADING = "one number per member is misleading"


def write(folder: Path, rated: Ratings) -> None:
    """Writes `ratings.json`, `ratings.csv`, `ratings.tex` and the page `tournament.html`."""
    write_json(folder / "ratings.json", rated.to_json())
    write_text(folder / "ratings.csv", as_csv(rated))
    write_text(folder / "ratings.tex", as_latex(rated))
    write_text(folder / "tournament.html", page(rated))


def ordered(rated: Ratings) -> list[str]:
    """The members by falling rating."""
    return sorted(rated.members, key=lambda name: -rated.elo[name][0])


def remarks(rated: Ratings) -> list[str]:
    """Caveats about the ratings, as sentences."""
    found = []
    if rated.seat:
        elo, low, high = rated.seat
        found.append(f"The seat {rated.first_role} is worth {elo:.0f} points{_interval(low, high, 0)}.")
    fit = f"Deviance of the ratings from the table: {rated.deviance:.1f} on {rated.freedom} degrees of freedom"
    if rated.cyclic is None:
        return [*found, f"{fit}. Some pairs never met, so the share of cycles is unknown."]
    found.append(f"{fit}; cyclic share {rated.cyclic:.2f}.")
    if rated.misleading:
        found.append(
            f"The cyclic share is above {CYCLIC} (A beats B, B beats C, C beats A), so {MISLEADING}: use the Nash "
            "mixture and alpha-rank."
        )
    return found


def _interval(low: float, high: float, digits: int) -> str:
    """The interval as text, with a space before it; "" if it is unknown."""
    return "" if isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"


def _rows(rated: Ratings) -> list[list[str]]:
    """Name, rating, interval, Nash share and alpha-rank share of each member."""
    rows = []
    for name in ordered(rated):
        elo, low, high = rated.elo[name]
        shares = [f"{each[name]:.3f}" if each else "" for each in (rated.nash, rated.alpha_rank)]
        rows.append([name, f"{elo:.0f}", *("" if isnan(each) else f"{each:.0f}" for each in (low, high)), *shares])
    return rows


HEADERS = ("member", "elo", "low", "high", "nash", "alpha_rank")


def as_table(rated: Ratings) -> Table:
    """The ratings, with their caveats as the caption."""
    table = Table(
        title="ratings (Bradley-Terry, Elo points)", caption="\n".join(remarks(rated)), caption_justify="left"
    )
    for name in HEADERS:
        table.add_column(name, justify="left" if name == "member" else "right")
    for row in _rows(rated):
        table.add_row(*row)
    return table


def as_csv(rated: Ratings) -> str:
    """CSV with a line for each member: rating, interval, shares, and mean points against each other member."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ordered(rated)
    writer.writerow([*HEADERS, *(f"points_against_{name}" for name in names)])
    for row in _rows(rated):
        writer.writerow([*row, *(_cell(rated, row[0], other) for other in names)])
    return out.getvalue()


def as_latex(rated: Ratings) -> str:
    """The ratings as a tabular (booktabs)."""
    lines = [r"\begin{tabular}{lrrrr}", r"\toprule", r"member & Elo & 95\,\% & Nash & $\alpha$-rank \\", r"\midrule"]
    for name, elo, low, high, *shares in _rows(rated):
        lines.append(" & ".join([latex(name), elo, f"[{low}, {high}]" if low else "", *shares]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def page(rated: Ratings) -> str:
    """One HTML page: caveats, ratings, and a heat map of mean points, best rated first."""
    notes = "".join(f'<p class="{"note" if MISLEADING in each else ""}">{escape(each)}</p>' for each in remarks(rated))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tournament</title><style>{STYLE}</style>'
        f"<h1>Tournament</h1>{notes}<h2>Ratings</h2>{_html(HEADERS, _rows(rated))}"
        f"<h2>Points of the row's member against the column's</h2>"
        f"<p>1 for a win, 1/2 for a draw; each seating of a pair counts alike.</p>{_heat(rated)}</html>\n"
    )


def _html(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in headers)
    body = "".join(
        f'<tr><td class="name">{escape(row[0])}</td>'
        + "".join(f"<td>{escape(each)}</td>" for each in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _heat(rated: Ratings) -> str:
    names = ordered(rated)
    head = "<th></th>" + "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for name in names:
        body += (
            f'<tr><td class="name">{escape(name)}</td>'
            + "".join(_warm(rated, name, other) for other in names)
            + "</tr>"
        )
    return f"<table><tr>{head}</tr>{body}</table>"


def _warm(rated: Ratings, one: str, other: str) -> str:
    """A cell from blue (always loses) over white to green (always wins)."""
    i, j = rated.members.index(one), rated.members.index(other)
    if (span := rated.matrix[i][j]) is None:
        return '<td class="none"></td>'
    share, low, high = span
    hue, strength = (145, share - 0.5) if share >= 0.5 else (215, 0.5 - share)
    shown = f"{escape(one)} against {escape(other)}: {rated.matches[i][j]} matches"
    text = f"{share:.2f}<small>{_interval(low, high, 2)}</small>"
    return f'<td title="{shown}" style="background: hsl({hue} 60% {97 - 60 * strength:.0f}%)">{text}</td>'


def _cell(rated: Ratings, one: str, other: str) -> str:
    span = rated.matrix[rated.members.index(one)][rated.members.index(other)]
    return "" if span is None else f"{span[0]:.4f}"
