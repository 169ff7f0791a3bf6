"""The summary of a run as typed records: one row for each iteration, in it the figures of each policy.

`summary.json` has one layout for one policy and for several. That of 0.1.0, whose rows held the figures of the only
policy there was, is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeAlias

Figure: TypeAlias = Mapping[str, Any]  # mean, low, high at 95 %; low and high are null where the spread is not known
Figures: TypeAlias = Mapping[str, Figure]  # metric -> figure

ONLY = "learner"  # the policy of a run of 0.1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy after one iteration.

    play            counts and language of the iteration's rounds of play, and what credit kept of them
    learn           what the learner tells of its steps; of iteration 0 those of imitation
    scores          the scorer's figures of the iteration's last round of play
    validation      figures of the validation split, on which the snapshot to keep is chosen
    sampled, greedy self-play on the test split
    versus          sampled figures by opponent; versus_greedy likewise
    alone           figures of each opponent by itself, in scenarios that seat one role
    benchmark       task -> metric -> figure
    """

    snapshot: str  # its version
    play: Mapping[str, float] = field(default_factory=dict)
    learn: Mapping[str, float] = field(default_factory=dict)
    scores: Figures = field(default_factory=dict)
    validation: Figures = field(default_factory=dict)
    sampled: Figures = field(default_factory=dict)
    greedy: Figures = field(default_factory=dict)
    versus: Mapping[str, Figures] = field(default_factory=dict)
    versus_greedy: Mapping[str, Figures] = field(default_factory=dict)
    alone: Mapping[str, Figures] = field(default_factory=dict)
    language: Mapping[str, float] = field(default_factory=dict)
    demonstrations: Figures = field(default_factory=dict)
    benchmark: Mapping[str, Figures] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `asdict` gave; fields that are not known are left out. KeyError without a snapshot."""
        known = {each.name: data[each.name] for each in fields(cls) if data.get(each.name) is not None}
        return cls(data["snapshot"], **{name: dict(value) for name, value in known.items() if name != "snapshot"})

    def mode(self, name: str) -> Figures:
        """The figures of `sampled`, `greedy` or `validation`."""
        found: Figures = getattr(self, name)
        return found

    def figure(self, path: str) -> Figure:
        """The figure at `path`, as sampled.score or versus.start.win_rate; a metric may have dots of its own, as
        deal.score. KeyError where there is none."""
        name, _, rest = path.partition(".")
        if name not in MODES:
            raise KeyError(path)
        return _at(getattr(self, name), rest)


def _at(part: Mapping[str, Any], path: str) -> Figure:
    if path in part:
        found: Figure = part[path]
        return found
    name, _, rest = path.partition(".")
    return _at(part[name], rest)


MODES = ("validation", "sampled", "greedy", "versus", "versus_greedy", "scores", "demonstrations", "benchmark")
"""The fields of `Measured` that hold figures with intervals: what a metric may be taken from."""


@dataclass(frozen=True, slots=True)
class Row:
    """One iteration: the rounds that were played until its end, each policy's figures, wall seconds by stage, and what
    guards said after it."""

    iteration: int
    round: int
    policies: Mapping[str, Measured]
    seconds: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in `summary.json`."""
        return {
            "iteration": self.iteration,
            "round": self.round,
            "policies": {name: asdict(each) for name, each in self.policies.items()},
            "seconds": dict(self.seconds),
        } | ({"alarms": list(self.alarms)} if self.alarms else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave, or a row of 0.1.0. KeyError, TypeError or AttributeError for anything else."""
        policies = data.get("policies", {ONLY: data})
        iteration = int(data["iteration"])
        measured = {str(name): Measured.from_json(each) for name, each in policies.items()}
        return cls(
            iteration,
            int(data.get("round", iteration)),
            measured,
            dict(data.get("seconds") or {}),
            tuple(data.get("alarms", ())),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run. `policy` is the one whose `metric` chose the iteration `best`, which is kept.

    improvement_greedy and gains (from the start to the kept iteration, paired) are given for each policy.
    """

    experiment: str
    seed: int
    seconds: float
    cpu_seconds: float
    best: int
    policy: str
    metric: str
    start: str  # what the start is called as an opponent
    demonstrators: Figures
    improvement_greedy: Figures
    gains: Mapping[str, Figures]
    iterations: tuple[Row, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the policies."""
        return tuple(self.iterations[0].policies)

    @property
    def kept(self) -> Row:
        """The row of the kept iteration."""
        return self.row(self.best)

    def row(self, iteration: int) -> Row:
        """The row of an iteration. ValueError lists those that there are."""
        for found in self.iterations:
            if found.iteration == iteration:
                return found
        numbers = ", ".join(str(each.iteration) for each in self.iterations)
        raise ValueError(f"no iteration {iteration}; there are {numbers}")

    def to_json(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"iterations": [row.to_json() for row in self.iterations]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave, or the summary of a run of 0.1.0. KeyError, TypeError, ValueError or AttributeError for
        anything else."""
        first = "policies" not in data["iterations"][0]  # the layout of 0.1.0
        known: dict[str, Any] = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        for name in ("demonstrators", "improvement_greedy", "gains"):
            known[name] = dict(data.get(name) or {})
        if first:
            gained = {name: known[name] for name in ("improvement_greedy", "gains")}
            known |= {name: {ONLY: value} if value else {} for name, value in gained.items()} | {"policy": ONLY}
        rows = tuple(Row.from_json(each) for each in data["iterations"])
        return cls(**{"start": "start", **known, "iterations": rows})
