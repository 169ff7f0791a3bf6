"""The parts of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from ..credit import Credit
from ..data.scorer import Judge, Scorer
from ..games.base import Game
from ..learners.base import Learner
from ..play.seats import Opponent
from .guards import Guards
from .harness import Benchmark
from .matchmaking import League

PREVIOUS = "previous"  # the opponent name for the previous iteration's snapshot


@dataclass(frozen=True, slots=True)
class Recipe:
    """A policy's training in an iteration: the nodes objective and learner, and the objects built from them."""

    nodes: Mapping[str, Any]
    credit: Credit
    learner: Learner

    def slowed(self, share: float) -> Recipe:
        """The same recipe with learning rates times `share`."""
        learner: Any = self.learner
        if share == 1.0 or not is_dataclass(optimizer := getattr(learner, "optimizer", None)):
            return self
        rates = {
            each.name: share * getattr(optimizer, each.name) for each in fields(optimizer) if each.name[-2:] == "lr"
        }
        node = {**self.nodes["learner"], "optimizer": {**self.nodes["learner"]["optimizer"], **rates}}
        made = replace(learner, optimizer=replace(optimizer, **rates))  # type: ignore[type-var]
        return replace(self, nodes={**self.nodes, "learner": node}, learner=made)


@dataclass(frozen=True, slots=True)
class Policy:
    """A trained policy: its adapter (None: all weights), and its recipes by first iteration."""

    adapter: Any  # create(base, folder, seed) -> Snapshot
    adapter_node: Any  # the node that builds it
    recipes: Mapping[int, Recipe]

    def recipe(self, number: int) -> Recipe:
        """The recipe of iteration `number`."""
        return self.recipes[max(each for each in self.recipes if each <= number)]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an experiment, built from its config by `run.build`."""

    config: Any  # parley.run.config.Config, composed
    game: Game
    model: Any  # a model source: create(folder, conversations, seed) -> Snapshot
    backend: Any  # backend() -> Backend
    policies: Mapping[str, Policy]  # the trained policies, by name
    imitator: Learner  # the learner of imitation
    # demonstrations(game, split) -> Iterable[Demonstration], besides those of the game's scripts; or None
    data: Any
    scorer: Scorer | Judge | None = None  # its scores go to credit and to the figures
    opponents: Mapping[str, Opponent] = field(default_factory=dict)  # further players, by name
    benchmark: Benchmark | None = None
    guards: Guards | None = None
    league: League | None = None  # the policies' opponents; None: those in `players`


def plain(node: Any) -> Any:
    """A config node as plain JSON."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
