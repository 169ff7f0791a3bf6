"""The README's picture: one scenario of Safecracker played before and after self-play, beside the learning curve.

    python benchmarks/draw_picture.py RUN   # a run of examples/: experiment=safecracker iterations=3
    python benchmarks/draw_picture.py       # draws again from docs/results/picture.json

The scenario is the first of the held-out ones, by id, in which the start scores least. Writes docs/picture-light.svg
and docs/picture-dark.svg.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from parley.data.episode import Episode
from parley.data.store import EpisodeStore
from results import ROOT, record, summary_of

STORED = ROOT / "docs" / "results" / "picture.json"
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "soft": "#656d76", "line": "#0969da", "good": "#1a7f37"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "soft": "#8d96a0", "line": "#4493f8", "good": "#3fb950"},
}
WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 560, 840, 60, 250  # of the curve


def matches(run: Path, iteration: int) -> dict[str, Episode]:
    stored = EpisodeStore(run / f"iter_{iteration:03d}" / "eval" / "sampled", shard=None).read()
    return {episode.scenario.id: episode for episode in stored}


def wheels(episode: Episode) -> list[dict[str, Any]]:
    """Each turn of the pair: the digit, the word for it, what was dialled."""
    spoken = [turn.text for turn in episode.turns if turn.kind != "retry"]
    code = episode.scenario.data["code"]
    return [
        {"digit": digit, "word": word, "dialled": dialled}
        for digit, word, dialled in zip(code, spoken[::2], spoken[1::2], strict=False)
    ]


def stored(run: Path) -> dict[str, Any]:
    """What the picture shows of a run."""
    rows = summary_of(run)["iterations"]
    before, after = matches(run, 0), matches(run, rows[-1]["iteration"])
    least = min(episode.result.returns["spy"] for episode in before.values())
    chosen = min(name for name, episode in before.items() if episode.result.returns["spy"] == least)
    return {
        "scenario": chosen,
        "before": wheels(before[chosen]),
        "after": wheels(after[chosen]),
        "curve": [row["sampled"]["score"] for row in rows],
        "script": summary_of(run)["demonstrators"]["score"],
    }


def text(x: float, y: float, words: str, fill: str, size: int = 13, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{fill}" font-size="{size}" {more}>{escape(words)}</text>'


def talk(turns: list[dict[str, Any]], x: int, title: str, theme: dict[str, str]) -> Iterator[str]:
    """A match as a column: who whispers what, who dials what."""
    yield text(x, 36, title, theme["ink"], 15, 'font-weight="600"')
    for row, turn in enumerate(turns):
        y, right = 70 + 60 * row, turn["digit"] == turn["dialled"]
        yield text(x, y, f"the digit is {turn['digit']}", theme["soft"], 12)
        yield text(x, y + 20, f"spy: “{turn['word']}”", theme["ink"], 14)
        mark = "✓" if right else "✗"
        yield text(x + 125, y + 20, f"agent dials {turn['dialled']} {mark}", theme["good" if right else "ink"], 14)
    score = sum(turn["digit"] == turn["dialled"] for turn in turns)
    yield text(x, 70 + 60 * len(turns), f"{score} of {len(turns)} points", theme["ink"], 14, 'font-weight="600"')


def curve(data: dict[str, Any], theme: dict[str, str]) -> Iterator[str]:
    """Points by iteration with their 95 % intervals, and the imitated script's as a line across."""
    points, most = data["curve"], 3.0

    def at(iteration: float, value: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * iteration / (len(points) - 1), BOTTOM - (BOTTOM - TOP) * value / most

    yield text(LEFT - 20, 36, "points of 3, held-out codes", theme["ink"], 15, 'font-weight="600"')
    for level in range(4):
        _, y = at(0, level)
        faint = f'stroke="{theme["soft"]}" stroke-opacity="0.25"'
        yield f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {faint}/>'
        yield text(LEFT - 20, y + 4, str(level), theme["soft"], 12)
    _, y = at(0, data["script"]["mean"])
    dashes = f'stroke="{theme["soft"]}" stroke-dasharray="5 4"'
    yield f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {dashes}/>'
    yield text(RIGHT - 130, y + 18, "the imitated script", theme["soft"], 12)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(n, point["mean"]) for n, point in enumerate(points)))
    yield f'<polyline points="{path}" fill="none" stroke="{theme["line"]}" stroke-width="2.5"/>'
    for number, point in enumerate(points):
        x, y = at(number, point["mean"])
        (_, low), (_, high) = at(number, point["low"]), at(number, min(point["high"], most))
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{theme["line"]}"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{theme["line"]}"/>'
        label = "start" if number == 0 else str(number)
        yield text(x, BOTTOM + 20, label, theme["soft"], 12, 'text-anchor="middle"')
    yield text((LEFT + RIGHT) / 2, BOTTOM + 40, "iterations of self-play", theme["soft"], 12, 'text-anchor="middle"')


def drawing(data: dict[str, Any], theme: dict[str, str]) -> str:
    name = "A match before and after self-play, and the points by iteration"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'role="img" aria-label="{name}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{theme["paper"]}"/>',
        *talk(data["before"], 20, "Before: a script imitated", theme),
        *talk(data["after"], 280, "After three iterations", theme),
        *curve(data, theme),
        "</svg>\n",
    ]
    return "\n".join(parts)


def main() -> None:
    if len(sys.argv) > 1:
        data = stored(Path(sys.argv.pop(1)))
        record("picture", data)
    data = json.loads(STORED.read_text())
    for name, theme in THEMES.items():
        (ROOT / "docs" / f"picture-{name}.svg").write_text(drawing(data, theme))


if __name__ == "__main__":
    main()
