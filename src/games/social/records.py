"""Reads Sotopia's records: characters, environments and the pairs that play them, one JSON object per line.

A folder holds `agent_profiles.jsonl`, `environment_profiles.jsonl` and `env_agent_combo_storages.jsonl`, as published
(sotopia-lab/sotopia-space, `profiles/`) or as `task=generate` writes them. Ids are called agent_id, env_id and combo_id
there, pk in a dump of the database; numbers may be texts, and "nan" or "none" means missing. Relationship rows are not
read: the environment's relationship counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...system.files import InputError, read_json, read_jsonl
from ..base import Json, Scenario
from .people import Person, Task

AGENTS, ENVIRONMENTS, PAIRS = "agent_profiles.jsonl", "environment_profiles.jsonl", "env_agent_combo_storages.jsonl"


def people(path: Path) -> dict[str, Person]:
    """The characters of a file, by id. InputError names an invalid line."""
    return {person.id: person for person in read_jsonl(path, person)}


def person(row: Mapping[str, Any]) -> Person:
    """A character from its record; ValueError for a record without a name."""
    name = f"{_text(row, 'first_name')} {_text(row, 'last_name')}".strip()
    if not name:
        raise ValueError("a character needs first_name and last_name")
    return Person(
        name=name,
        age=_number(row, "age") if row.get("age") is not None else 0,
        occupation=_text(row, "occupation"),
        gender=_text(row, "gender"),
        pronouns=_text(row, "gender_pronoun"),
        public=_text(row, "public_info"),
        personality=_text(row, "personality_and_values"),
        secret=_text(row, "secret"),
        id=_id(row, "agent_id"),
    )


def scenarios(folder: str | Path, characters: str | Path | None = None) -> list[Scenario]:
    """Every pair of a folder as a scenario, whose cluster is its environment. The characters come from the folder
    `characters` (None: the same folder). InputError names the file and the invalid line."""
    folder = Path(folder)
    known = people(Path(characters or folder) / AGENTS)
    environments = {_id(row, "env_id"): row for row in read_jsonl(folder / ENVIRONMENTS, environment)}
    found = list(read_jsonl(folder / PAIRS, lambda row: scenario(row, environments, known)))
    ids = [each.id for each in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []:
        raise InputError(f"{folder / PAIRS}: the pair {twice[0]} stands there twice")
    if not found:
        raise InputError(f"{folder / PAIRS} holds no pair, expected env_id and agent_ids in each line")
    return found


def environment(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """An environment's record, checked; ValueError if it is no task."""
    goals = row["agent_goals"]
    if (
        not isinstance(goals, list)
        or len(goals) < 2
        or not all(isinstance(each, str) and each.strip() for each in goals)
    ):
        raise ValueError("agent_goals must be a list of at least two texts")
    if not _text(row, "scenario"):
        raise ValueError("an environment needs a scenario")
    _number(row, "relationship")
    _id(row, "env_id")
    return row


def scenario(row: Mapping[str, Any], environments: Mapping[str, Any], known: Mapping[str, Person]) -> Scenario:
    """The scenario of a pair's record. KeyError or ValueError names what is missing."""
    place, cast = _text(row, "env_id"), row["agent_ids"]
    if place not in environments:
        raise ValueError(f"there is no environment {place!r}")
    if not isinstance(cast, list) or (strangers := [each for each in cast if each not in known]):
        raise ValueError(
            f"there is no character {strangers[0]!r}" if isinstance(cast, list) else "agent_ids is no list"
        )
    each = environments[place]
    task = Task(
        _text(each, "scenario"),
        _number(each, "relationship"),
        tuple(each["agent_goals"]),
        tuple(known[name] for name in cast),
        place,
        _text(each, "codename"),
    )
    return Scenario(_id(row, "combo_id").replace("/", "|"), Task.from_json(task.to_json()).to_json(), place)


def lists(path: str | Path) -> Mapping[str, Sequence[str]]:
    """Named lists of environments, in the format of Sotopia-π's `used_env.json`. InputError for another file."""
    found: Json = read_json(path)
    named = found if isinstance(found, dict) else {}
    if not named or not all(
        isinstance(each, list) and all(isinstance(x, str) for x in each) for each in named.values()
    ):
        raise InputError(f'{path}: expected an object of lists of environments, as {{"test": ["…"]}}')
    return named


def _text(row: Mapping[str, Any], key: str) -> str:
    """A field's text, stripped; "" if missing."""
    value = row.get(key)
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is {type(value).__name__}, expected text")
    return value.strip()


def _number(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip().isdecimal():
        raise ValueError(f"{key} is {value!r}, expected a whole number")
    return int(value)


def _id(row: Mapping[str, Any], key: str) -> str:
    """A record's id: `key`, or pk as in a dump."""
    if found := _text(row, key) or _text(row, "pk"):
        return found
    raise ValueError(f"the record has neither {key} nor pk")
