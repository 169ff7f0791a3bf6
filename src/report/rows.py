"""The summary of a run as typed records: one row per iteration, with the figures of each policy.

`summary.json` has the same layout for one policy and for several. The older layout of 0.1.0, with a single policy's
figures directly in the row, is still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeAlias

Figure: TypeAlias = Mapping[str, Any]  # mean, low, high at 95 %; low and high are null if the spread is unknown
Figures: TypeAlias = Mapping[str, Figure]  # metric -> figure

ONLY = "learner"  # the policy of a run of 0.1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy after one iteration.

    play            counts and language figures of the iteration's rounds of play, and credit's kept share
    learn           the learner's metrics; for iteration 0 those of imitation
    scores          the scorer's figures of the iteration's last round of play
    validation      figures on the validation split, which choose the snapshot to keep
    sampled, greedy self-play on the test split
    versus, versus_greedy   sampled and greedy figures by opponent
    alone           each opponent's own figures, in scenarios that seat one role
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
        """Inverse of `asdict`; unknown fields are ignored. KeyError without a snapshot."""
        known = {each.name: data[each.name] for each in fields(cls) if data.get(each.name) is not None}
        return cls(data["snapshot"], **{name: dict(value) for name, value in known.items() if name != "snapshot"})

    def mode(self, name: str) -> Figures:
        """The figures of `sampled`, `greedy` or `validation`."""
        found: Figures = getattr(self, name)
        return found

    def figure(self, path: str) -> Figure:
        """The figure at `path`, such as sampled.score or versus.start.win_rate. A metric may itself contain dots
        (deal.score). KeyError if there is none."""
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
"""The fields of `Measured` that hold figures with intervals; a metric's path begins with one of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One iteration: rounds played so far in the run, each policy's figures, wall seconds by stage, guards' alarms."""

    iteration: int
    round: int
    policies: Mapping[str, Measured]
    seconds: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row as it is stored in `summary.json`."""
        return {
            "iteration": self.iteration,
            "round": self.round,
            "policies": {name: asdict(each) for name, each in self.policies.items()},
            "seconds": dict(self.seconds),
        } | ({"alarms": list(self.alarms)} if self.alarms else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; reads rows of 0.1.0, too. KeyError, TypeError or AttributeError if it is neither."""
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
    """The summary of a finished run. The metric of `policy` chose `best`, the iteration to keep.

    `improvement_greedy` and `gains` are paired differences from the start to the kept iteration, by policy.
    """

    experiment: str
    seed: int
    seconds: float
    cpu_seconds: float
    best: int
    policy: str
    metric: str
    start: str  # name of the start as an opponent
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
        """The row of an iteration. ValueError lists the available ones."""
        for found in self.iterations:
            if found.iteration == iteration:
                return found
        numbers = ", ".join(str(each.iteration) for each in self.iterations)
        raise ValueError(f"no iteration {iteration}; there are {numbers}")

    def to_json(self) -> dict[str, Any]:
        """The summary as it is stored in `summary.json`."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"iterations": [row.to_json() for row in self.iterations]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; reads summaries of 0.1.0, too. KeyError, TypeError, ValueError or AttributeError if it
        is neither."""
        first = "policies" not in data["iterations"][0]  # the layout of 0.1.0
        known: dict[str, Any] = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        for name in ("demonstrators", "improvement_greedy", "gains"):
            known[name] = dict(data.get(name) or {})
        if first:
            gained = {name: known[name] for name in ("improvement_greedy", "gains")}
            known |= {name: {ONLY: value} if value else {} for name, value in gained.items()} | {"policy": ONLY}
        rows = tuple(Row.from_json(each) for each in data["iterations"])
        return cls(**{"start": "start", **known, "iterations": rows})
