"""A text game of a clembench checkout behind the game contract.

A scenario is an instance, with the id <game>:<experiment>:<id>. The match is clemcore's own (`match`), its return the
Main Score over 100. A reply that cannot be read aborts most games; the seat that wrote it is to blame. Outcomes:
success, failure, aborted, unscored (the game's scorer failed), cut, context, crash.

clemcore runs the code of the checkout, which is the user's to trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ...system.files import InputError
from ...system.naming import nearest
from ..base import Facts, GeneratorMatch, Scenario, Script
from .instances import Instances, Key, Listed, listed, scenarios
from .library import library
from .match import METRICS, Rules, Table

MISSING = re.compile(r"Resource\s+\S*?(\w[\w.-]*)\S*\s+not found", re.IGNORECASE)


class Clembench:
    """The game.

    name         of a game, as in its clemgame.json; path: a checkout of clembench, or a folder of games
    instances    another instance file of the game; experiments: only these
    roles        seats, where some roles of the game never speak; None: those of clemgame.json
    split        file that says which instance belongs to which split (JSON lines, as playpen-data); the others, and all
                 where it is None, by hash: `held_out` of each experiment to validation, as much to the test
    aborted      return of every seat in a match that was aborted
    history      whether the game plants replies in a seat's first view, as privateshared does
    max_retries  retries of a seat in a row, in games that ask again
    scripted     scripted players of the seats by name, for demonstrations: clembench has none that parley can use

    InputError for a game, file or experiment that there is not, and names what the game needs and is not there.
    """

    version: int | str

    def __init__(
        self,
        name: str,
        path: str,
        instances: str | None = None,
        experiments: Sequence[str] | None = None,
        roles: Sequence[str] | None = None,
        split: str | None = None,
        held_out: float = 0.2,
        split_seed: int = 0,
        max_requests: int = 60,
        max_retries: int = 5,
        aborted: float = 0.0,
        history: bool = False,
        cpu_s: float = 30.0,
        scripted: Mapping[str, Script] | None = None,
    ) -> None:
        games = listed(path)
        if name not in games:
            raise InputError(f"game.name={name} is no game of {path}{nearest(name, games)}")
        entry = games[name]
        if entry.image != "none":
            raise InputError(f"game.name={name} shows images, and parley plays text: choose another game")
        self.instances = Instances.read(entry, instances, experiments)
        self.benchmark = loaded(entry)
        self.name, self.game = f"clembench_{name}", name
        self.version = f"1 of clemcore {version('clemcore')}"
        self.files = {"master": str(entry.folder / "master.py"), "instances": str(self.instances.file)}
        if split:
            self.files["split"] = split
        self.roles, models = _seats(entry, roles)
        self.facts = Facts(min(aborted, 0.0), 1.0, max_requests, max_retries, history=history, metrics=METRICS)
        self.rules = Rules(self.benchmark, name, models, self.roles, self.facts, cpu_s, aborted)
        self.splits = scenarios(name, list(self.instances.rows), split_seed, held_out, split)
        self._scripts = dict(scripted or {})

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The instances of a split, in the order of the file."""
        return self.splits[split]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        """A match of the instance; `seed` is for what little a game master draws."""
        return GeneratorMatch(self.table(scenario, seed).play())

    def table(self, scenario: Scenario, seed: int) -> Table:
        """The match with its records, for who writes clembench's files."""
        key: Key = (scenario.data["experiment"], scenario.data["game_id"])
        if key not in self.instances.rows:
            raise InputError(f"{scenario.id} is no instance of {self.instances.file}")
        return Table(self.rules, scenario, self.instances.experiments[key[0]], self.instances.rows[key], seed)

    def scripts(self) -> Mapping[str, Script]:
        """Those of the config."""
        return self._scripts

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """None that could be named: what a game master discloses, and when, only its own code knows."""
        return {}


def loaded(entry: Listed) -> Any:
    """clemcore's benchmark for a game. InputError names the package or NLTK data that it needs and is not there."""
    clem = library()
    registry = clem.GameRegistry()
    registry.register_from_directories(str(entry.folder), 0)
    spec = next(each for each in registry if each.game_name == entry.name)
    try:
        benchmark = clem.GameBenchmark.load_from_spec(spec)
    except ModuleNotFoundError as error:
        package = {"sklearn": "scikit-learn"}.get(error.name or "", error.name)
        raise InputError(f"game.name={entry.name} needs the package {package}: pip install {package}") from error
    except LookupError as error:
        found = MISSING.search(re.sub(r"\x1b\[\d+m", "", str(error)))
        if found is None:
            raise InputError(
                f"game.name={entry.name} cannot be loaded: {str(error).strip().splitlines()[0]}"
            ) from error
        told = f"NLTK's {found.group(1)}: python -m nltk.downloader {found.group(1)}"
        raise InputError(f"game.name={entry.name} needs {told}") from error
    benchmark.close()  # its helper modules have names that other games use, too
    return benchmark


def _seats(entry: Listed, roles: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the seats, the seat of each model that the game takes). InputError for more seats than models."""
    own = [re.sub(r"\W+", "_", role).lower() for role in entry.roles[: entry.players]]
    own += [f"player_{number}" for number in range(len(own) + 1, entry.players + 1)]
    seats = list(roles or own)
    if len(seats) > entry.players or len(set(seats)) < len(seats):
        raise InputError(f"game.roles is {seats}: {entry.name} takes {entry.players} players with names of their own")
    return tuple(seats), tuple([*seats, *seats[-1:] * (entry.players - len(seats))])
