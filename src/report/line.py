"""An iteration's line on the terminal and in `log.txt` (figures, gain, time left), and the next steps after a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .progress import duration
from .rows import Row
from .run import figure
from .table import rates
from .transcript import command, started


def line(rows: Sequence[Row], iterations: int, policy: str, path: str, name: str) -> str:
    """`iteration 2/5  joint_score 12.25 ±0.45 (+1.60)  agreement 0.97  7 min left` for the last of `rows`.

    `path` is the figure that judges the run, such as sampled.joint_score, `name` its metric; brackets hold its gain
    over the start. The time left is the mean time of the iterations after the start, times those still to come.
    """
    row, start = rows[-1], rows[0].policies[policy]
    measured = row.policies[policy]
    now = measured.figure(path)
    gain = f" ({now['mean'] - start.figure(path)['mean']:+.2f})" if row.iteration else ""
    shown = [
        f"{each.removesuffix('_rate')} {measured.sampled[each]['mean']:.2f}" for each in rates(measured.sampled, name)
    ]
    parts = [f"iteration {row.iteration}/{iterations}", f"{name} {figure(now)}{gain}", *shown]
    return "  ".join([*parts, *_left(rows, iterations)])


def _left(rows: Sequence[Row], iterations: int) -> list[str]:
    took, ahead = [sum(row.seconds.values()) for row in rows[1:]], iterations - rows[-1].iteration
    return [f"{duration(sum(took) / len(took) * ahead)} left"] if took and ahead else []


def next_steps(out: Path, worst: str | None, roles: Sequence[str]) -> list[tuple[str, str]]:
    """(what, page or command) of the next steps with the finished run in `out`."""
    found = [("report", str(out / "report" / "index.html"))]
    if worst is not None:
        found.append(("the worst match", command("show", out, worst)))
    if roles:
        words = [f"run={out}", f"players.{roles[0]}=human", "play.scenarios=1", "play.group=1"]
        found.append(("play against it", shlex.join([*started(), "task=play", *words])))
    return found
