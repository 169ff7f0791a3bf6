"""What an experiment is composed of."""

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

PREVIOUS = "previous"  # the opponent that is the snapshot of the iteration before


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a policy learns in an iteration: the nodes objective and learner as they hold for it, and what they build."""

    nodes: Mapping[str, Any]
    credit: Credit
    learner: Learner

    def slowed(self, share: float) -> Recipe:
        """The same at `share` of the learning rates."""
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
    """What learns under one name: the adapter that it trains (None: all weights), and its recipes, each under the
    iteration from which on it holds."""

    adapter: Any  # create(base, folder, seed) -> Snapshot
    adapter_node: Any  # what builds it
    recipes: Mapping[int, Recipe]

    def recipe(self, number: int) -> Recipe:
        """How iteration `number` learns."""
        return self.recipes[max(each for each in self.recipes if each <= number)]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an experiment is composed of, built from its config by `run.build`."""

    config: Any  # parley.run.config.Config, composed
    game: Game
    model: Any  # a model source: create(folder, conversations, seed) -> Snapshot
    backend: Any  # backend() -> Backend
    policies: Mapping[str, Policy]  # what learns, by name
    imitator: Learner  # the learner as imitation uses it
    # demonstrations(game, split) -> Iterable[Demonstration], besides those of the game's scripts; None for none
    data: Any
    scorer: Scorer | Judge | None = None  # what it says of matches is told to credit, and stands among the figures
    opponents: Mapping[str, Opponent] = field(default_factory=dict)  # who else may be seated, by name
    benchmark: Benchmark | None = None
    guards: Guards | None = None
    league: League | None = None  # whom the policies meet; None: as `players` says


def plain(node: Any) -> Any:
    """A config node as plain JSON."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
