"""Games of a clembench checkout: their folders, metadata, instances and splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...system.files import InputError, read_jsonl
from ...system.naming import nearest
from ...system.seeds import derive
from ..base import Json, Scenario
from ..splits import SPLITS

Key = tuple[str, str]
"""(experiment, id of an instance as text)."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a clemgame.json in `folder`; `players` is the number of models, not of all participants."""

    name: str
    folder: Path
    players: int
    roles: tuple[str, ...]
    benchmark: tuple[str, ...]
    image: str
    instances: str
    plain: Mapping[str, Any]


def listed(path: str | Path) -> dict[str, Listed]:
    """All games of a checkout by name. InputError for a folder without games, and for an invalid clemgame.json."""
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{path} is no folder; git clone https://github.com/clembench/clembench brings the games")
    found: dict[str, Listed] = {}
    for depth in ("", "*/", "*/*/"):
        for file in sorted(root.glob(f"{depth}clemgame.json")):
            for entry in _entries(file):
                found.setdefault(entry.name, entry)
    if not found:
        raise InputError(f"{path} holds no game (no clemgame.json): say the path of a checkout of clembench")
    return found


def _entries(file: Path) -> list[Listed]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = data if isinstance(data, list) else [data]
        return [
            Listed(
                str(row["game_name"]), file.parent, int(row["players"]), tuple(map(str, row.get("roles", ()))),
                tuple(map(str, row.get("benchmark", ()))), str(row.get("image", "none")),
                str(row.get("instances", "instances")), row,
            )
            for row in rows
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} lists no game that clembench knows: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Instances:
    """One instance file: its experiments, without their instances, and all instances."""

    file: Path
    experiments: Mapping[str, Mapping[str, Json]]
    rows: Mapping[Key, Mapping[str, Json]]

    @staticmethod
    def read(entry: Listed, name: str | None, only: Sequence[str] | None) -> Instances:
        """The instances of a game. InputError for an unknown file or experiment, with the nearest name."""
        folder, stem = entry.folder / "in", (name or entry.instances).removesuffix(".json")
        file = folder / f"{stem}.json"
        if not file.is_file():
            there = [each.stem for each in folder.glob("*.json")]
            raise InputError(f"{entry.name} has no instances {stem}{nearest(stem, there)} ({folder})")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))["experiments"]
            experiments = {str(each["name"]): each for each in data}
            rows = {
                (name, str(row["game_id"])): row for name, each in experiments.items() for row in each["game_instances"]
            }
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} holds no experiments as clembench writes them: {error!r}") from error
        for wanted in only or ():
            if wanted not in experiments:
                raise InputError(f"{entry.name} has no experiment {wanted}{nearest(wanted, experiments)}")
        chosen = set(only or experiments)
        return Instances(
            file,
            {
                name: {key: value for key, value in each.items() if key != "game_instances"}
                for name, each in experiments.items()
                if name in chosen
            },
            {key: row for key, row in rows.items() if key[0] in chosen},
        )


def scenarios(
    game: str, rows: Sequence[Key], seed: int, held_out: float, stated: str | None
) -> dict[str, list[Scenario]]:
    """The instances of each split: by the file `stated`, else by rank of a hash within their experiment.

    `stated` has a line per instance, as in playpen-data: game, experiment, task_id, split. If it has no test instances,
    every second one of its validation instances becomes a test instance.
    """
    places = _stated(game, stated) if stated else {}
    if places and "test" not in places.values():
        validation = sorted(
            (key for key, split in places.items() if split == "validation"), key=lambda key: _rank(seed, key)
        )
        places |= dict.fromkeys(validation[::2], "test")
    for experiment in dict.fromkeys(name for name, _ in rows):
        own = sorted(
            (key for key in rows if key[0] == experiment and key not in places), key=lambda key: _rank(seed, key)
        )
        cut = min(max(1, round(len(own) * held_out)), len(own) // 3) if held_out else 0
        for at, key in enumerate(own):
            places[key] = "test" if at < cut else "validation" if at < 2 * cut else "train"
    return {
        split: [
            Scenario(f"{game}:{experiment}:{number}", {"experiment": experiment, "game_id": number})
            for experiment, number in rows
            if places[experiment, number] == split
        ]
        for split in SPLITS
    }


def _rank(seed: int, key: Key) -> int:
    return derive(seed, "split", *key)


def _stated(game: str, file: str) -> dict[Key, str]:
    """The splits of the instances of `game` in a file. InputError names an invalid line."""
    placed = (row for row in read_jsonl(file, _placed) if row[0] == game)
    return {(experiment, number): split for _, experiment, number, split in placed}


def _placed(row: Any) -> tuple[str, str, str, str]:
    """(game, experiment, id, split) of one line; rows of playpen-data have them in their meta."""
    said = row.get("meta", row) if isinstance(row, dict) else {}
    number = said.get("task_id", said.get("game_id"))
    if not {"game", "experiment", "split"} <= said.keys() or number is None or said["split"] not in SPLITS:
        raise ValueError(f"expected game, experiment, task_id and split ({', '.join(SPLITS)})")
    return str(said["game"]), str(said["experiment"]), str(number), str(said["split"])
