"""A text game of a clembench checkout behind the game contract.

A scenario is an instance, with the id <game>:<experiment>:<id>. clemcore runs the match (`match`); the return is the
Main Score divided by 100. An unreadable reply aborts most games, and its seat is to blame. Outcomes: success, failure,
aborted, unscored (the game's scorer failed), cut, context, crash.

clemcore runs the code of the checkout, so use only one that you trust.
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

    name         name of the game in its clemgame.json; path: a checkout of clembench, or a folder of games
    instances    another instance file of the game; experiments: only these
    roles        seats, if some roles of the game never speak; None: those of clemgame.json
    split        file with the split of instances (JSON lines, as in playpen-data); others, or all if None, are split by
                 hash: the share `held_out` of each experiment for validation, and the same for the test
    aborted      return of every seat in an aborted match
    history      whether the game puts replies into a seat's first view, like privateshared
    max_retries  maximum consecutive retries of a seat, in games with retries
    scripted     scripted players by name, for demonstrations; clembench has none that parley can use

    InputError for an unknown game, file or experiment, and for missing requirements of the game.
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
        """A match of the instance; `seed` seeds the game master's random choices."""
        return GeneratorMatch(self.table(scenario, seed).play())

    def table(self, scenario: Scenario, seed: int) -> Table:
        """The match with its records, for writing clembench's files."""
        key: Key = (scenario.data["experiment"], scenario.data["game_id"])
        if key not in self.instances.rows:
            raise InputError(f"{scenario.id} is no instance of {self.instances.file}")
        return Table(self.rules, scenario, self.instances.experiments[key[0]], self.instances.rows[key], seed)

    def scripts(self) -> Mapping[str, Script]:
        """The scripts of the config."""
        return self._scripts

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """{}: only a game master's own code knows what it discloses, and when."""
        return {}


def loaded(entry: Listed) -> Any:
    """clemcore's benchmark for a game. InputError names a missing package or missing NLTK data."""
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
    benchmark.close()  # other games have helper modules of the same names
    return benchmark


def _seats(entry: Listed, roles: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the seats, the seat of each of the game's models). InputError for more seats than models."""
    own = [re.sub(r"\W+", "_", role).lower() for role in entry.roles[: entry.players]]
    own += [f"player_{number}" for number in range(len(own) + 1, entry.players + 1)]
    seats = list(roles or own)
    if len(seats) > entry.players or len(set(seats)) < len(seats):
        raise InputError(f"game.roles is {seats}: {entry.name} takes {entry.players} players with names of their own")
    return tuple(seats), tuple([*seats, *seats[-1:] * (entry.players - len(seats))])
