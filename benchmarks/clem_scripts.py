"""Scripted players of two games of clembench, and instances of referencegame for training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

GRID = re.compile(r"(?:[X□▢](?: [X□▢]){4}\n?){5}")
TARGET = re.compile(r"needs to guess:\s+(\S+)\s")
CLUE = re.compile(r"a word of (\d+) letters from (\w) to (\w)")
ANSWERS = ("first", "second", "third")
DESCRIBED, CHOSEN = 0.7, 0.8  # how often the script describes the target, and chooses the grid that was described
EXPERIMENT = "made"


def careless(request: Any, own: Random, persona: Random) -> str:
    """Writes a grid out cell by cell, though not always the target; chooses the likest grid, though not always."""
    text = request.messages[-1].content
    grids = [found.split() for found in GRID.findall(text)]
    if request.seat == "instruction_giver":
        grid = grids[0] if own.random() < DESCRIBED else own.choice(grids[1:])
        return "Expression: " + " ".join(grid)
    said = text.partition("Expression: ")[2].partition("\n")[0].split()
    likest = max(range(len(grids)), key=lambda at: sum(map(str.__eq__, grids[at], said)))
    return f"Answer: {ANSWERS[likest if own.random() < CHOSEN else own.randrange(len(grids))]}"


class Lettered:
    """A player of taboo who describes a word by its letters, and guesses a word of `path`'s instances that has them."""

    def __init__(self, path: Path) -> None:
        found = json.loads((path / "taboo" / "in" / "instances.json").read_text())["experiments"]
        self.words = sorted({row["target_word"] for each in found for row in each["game_instances"]})

    def __call__(self, request: Any, own: Random, persona: Random) -> str:
        text = "\n".join(each.content for each in request.messages if each.role != "assistant")
        if request.seat == "describer":
            word = TARGET.findall(text)[-1]
            return f"CLUE: a word of {len(word)} letters from {word[0]} to {word[-1]}"
        size, first, last = CLUE.findall(text)[-1]
        fitting = [word for word in self.words if (len(word), word[0], word[-1]) == (int(size), first, last)]
        return f"GUESS: {own.choice(fitting)}"


def made(shipped: dict[str, Any], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Instances in the words of a shipped one, with grids drawn anew: distractors are other grids, or the target with
    some cells changed."""
    own = Random(seed)
    for number in range(count):
        target = _drawn(own)
        others = [_drawn(own) if own.random() < 0.5 else _changed(target, own) for _ in ANSWERS[1:]]
        place = own.randrange(len(ANSWERS))
        shown = [*others[:place], target, *others[place:]]
        yield {
            **shipped, "game_id": number, "target_grid_name": [ANSWERS[place], str(place + 1)],
            "player_1_prompt_header": _filled(shipped["player_1_prompt_header"], [target, *others]),
            "player_2_prompt_header": _filled(shipped["player_2_prompt_header"], shown),
        }  # fmt: skip


def instances(game: Path, count: int, seed: int) -> dict[str, Any]:
    """What an instance file of referencegame holds: the shipped experiments, and `count` made instances."""
    data: dict[str, Any] = json.loads((game / "in" / "instances.json").read_text())
    rows = list(made(data["experiments"][0]["game_instances"][0], count, seed))
    return {**data, "experiments": [*data["experiments"], {"name": EXPERIMENT, "game_instances": rows}]}


def _drawn(own: Random) -> str:
    filled = own.choice((0.3, 0.5, 0.7))
    return _rows(["X" if own.random() < filled else "□" for _ in range(25)])


def _changed(grid: str, own: Random) -> str:
    cells = grid.split()
    for at in own.sample(range(25), own.randrange(3, 11)):
        cells[at] = "X" if cells[at] == "□" else "□"
    return _rows(cells)


def _rows(cells: list[str]) -> str:
    return "\n".join(" ".join(cells[at : at + 5]) for at in range(0, 25, 5))


def _filled(prompt: str, grids: list[str]) -> str:
    """A prompt with other grids in the places of its own."""
    left = iter(grids)
    return GRID.sub(lambda found: next(left) + "\n" * found[0].endswith("\n"), prompt)
