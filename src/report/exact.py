"""Exact exploitability and policies as a table and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich.table import Table

HEADERS = ("iteration", "seat", "view", "reply", "probability", "reach", "mass", "best")


def exploit_table(rows: Mapping[int, Mapping[str, Any]], uniform: float) -> Table:
    """A row for each iteration: exploitability, and for each seat its value and the gain of a best response."""
    first = next(iter(rows.values()))
    seats = " / ".join(first["values"])
    sampled, averaged = "bounds" in first, any("averaged" in row for row in rows.values())
    names = ["iteration", "exploitability", *["lower", "upper"] * sampled, *["averaged"] * averaged]
    table = Table(title=f"exploitability (uniformly random play: {uniform:.4f})")
    for name in [*names, f"value {seats}", f"gain {seats}", "legal mass", "least"]:
        table.add_column(name, justify="right", no_wrap=name in names)
    for number, row in rows.items():
        cells = [str(number), f"{row['exploitability']:.4f}"]
        cells += [_span(row["bounds"][name]) for name in ("lower", "upper")] if sampled else []
        cells += [f"{row['averaged']:.4f}" if "averaged" in row else ""] if averaged else []
        cells += [" / ".join(f"{each:.4f}" for each in row[what].values()) for what in ("values", "gains")]
        table.add_row(*cells, *(f"{row['mass'][name]:.4f}" for name in ("mean", "least")))
    return table


def _span(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f}" + (f" [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure else "")


def as_csv(policies: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The policies of each iteration as CSV, a line for each legal reply in each information set."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADERS)
    for number, rows in policies.items():
        for row in rows:
            for reply, chance in row["replies"].items():
                own = (number, row["seat"], row["view"], reply, f"{chance:.6g}")
                writer.writerow([*own, f"{row['reach']:.6g}", f"{row['mass']:.6g}", int(row["best"] == reply)])
    return text.getvalue()
