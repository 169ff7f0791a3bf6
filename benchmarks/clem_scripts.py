"""Scripted players of three games of clembench, and maps of textmapworld for training."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from random import Random
from typing import Any

GRID = re.compile(r"(?:[X□▢](?: [X□▢]){4}\n?){5}")
TARGET = re.compile(r"needs to guess:\s+(\S+)\s")
CLUE = re.compile(r"a word of (\d+) letters from (\w) to (\w)")
ANSWERS = ("first", "second", "third")
DESCRIBED, CHOSEN = 0.7, 0.8  # how often the script describes the target, and chooses the grid that was described
DOORS = re.compile(r"available directions: ([a-z, ]+)\.")
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
STOPPED = 0.12  # how often the wanderer stops
MADE = "made"  # the experiment of the maps drawn anew


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


def wanderer(request: Any, own: Random, persona: Random) -> str:
    """Walks about in textmapworld at random, through doors that there are, and stops at random."""
    doors = DOORS.findall(request.messages[-1].content)[-1].split(", ")
    return "DONE" if own.random() < STOPPED else f"GO: {own.choice(doors)}"


def explorer(request: Any, own: Random, persona: Random) -> str:
    """Visits every room of textmapworld: takes a door that leads to a new room, else goes back; then stops."""
    at, way, visited, known, doors = (0, 0), list[str](), set[Any](), set[Any](), list[str]()
    for message in request.messages:
        if message.role == "assistant":
            step = message.content.removeprefix("GO: ")
            at, way = _behind(at, step), way[:-1] if way and BACK[way[-1]] == step else [*way, step]
        else:
            doors = DOORS.findall(message.content)[-1].split(", ")
            visited.add(at)
            known |= {_behind(at, door) for door in doors}
    new = [door for door in doors if _behind(at, door) not in visited]
    return "DONE" if known <= visited else f"GO: {own.choice(new) if new else BACK[way[-1]]}"


def _behind(place: tuple[int, int], door: str) -> tuple[int, int]:
    return place[0] + STEPS[door][0], place[1] + STEPS[door][1]


def maps(game: Path, count: int, seed: int) -> dict[str, Any]:
    """What an instance file of textmapworld holds: the shipped experiments, and `count` maps drawn anew, in the words
    and with the rooms of the shipped ones."""
    data: dict[str, Any] = json.loads((game / "in" / "instances.json").read_text())
    shipped = [row for each in data["experiments"] for row in each["game_instances"]]
    names = sorted({name for row in shipped for name in ast.literal_eval(row["Graph_Nodes"])})
    own = Random(seed)
    rows = [{**shipped[0], **_map(names, own), "game_id": number} for number in range(count)]
    return {**data, "experiments": [*data["experiments"], {"name": MADE, "game_instances": rows}]}


def _map(names: list[str], own: Random) -> dict[str, str]:
    """Rooms on a grid of 4 by 4: a tree, and in some of the larger ones a door more."""
    size = own.choice((4, 6, 8))
    places = [(own.randrange(4), own.randrange(4))]
    doors = set[tuple[int, int]]()  # between the rooms of these numbers
    while len(places) < size:
        at = own.randrange(len(places))
        x, y = (have + step for have, step in zip(places[at], own.choice(list(STEPS.values())), strict=True))
        if (x, y) not in places and x in range(4) and y in range(4):
            doors.add((at, len(places)))
            places.append((x, y))
    near = [(i, j) for i in range(size) for j in range(i) if sum(map(abs, _apart(places[i], places[j]))) == 1]
    if size > 4 and own.random() < 0.4 and (free := [pair for pair in near if pair[::-1] not in doors]):
        doors.add(own.choice(free))
    rooms = own.sample(names, size)
    ways: dict[str, list[tuple[str, str]]] = {room: [] for room in rooms}
    for i, j in sorted(doors):
        for one, other in ((i, j), (j, i)):
            step = _apart(places[other], places[one])
            ways[rooms[one]].append((next(name for name, each in STEPS.items() if each == step), rooms[other]))
    return {
        "Graph_Nodes": str(rooms), "Graph_Edges": str([(rooms[i], rooms[j]) for i, j in sorted(doors)]),
        "Current_Position": own.choice(rooms),
        "Directions": str([(room, [way for way, _ in there]) for room, there in ways.items()]),
        "Moves": str([{"node": room, "node_moves": there} for room, there in ways.items()]),
        "Mapping": str(dict(zip(places, rooms, strict=True))),
    }  # fmt: skip


def _apart(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] - other[0], one[1] - other[1]
