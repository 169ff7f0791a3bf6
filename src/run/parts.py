"""What an experiment is composed of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..credit import Credit
from ..data.scorer import Judge, Scorer
from ..games.base import Game
from ..learners.base import Learner
from ..play.seats import Opponent
from .harness import Benchmark

LEARNER, PREVIOUS = "learner", "previous"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an iteration learns: the nodes objective and learner as they hold for it, and what they build."""

    nodes: Mapping[str, Any]
    credit: Credit
    learner: Learner


@dataclass(frozen=True, slots=True)
class Parts:
    """What an experiment is composed of, built from its config by `runs.build`."""

    config: Any  # parley.run.config.Config, composed
    game: Game
    model: Any  # a model source: create(folder, conversations, seed) -> Snapshot
    backend: Any  # backend() -> Backend
    credit: Credit
    learner: Learner
    imitator: Learner  # the learner as imitation uses it
    adapter: Any  # create(base, folder, seed) -> Snapshot; None: all weights are trained
    # demonstrations(game, split) -> Iterable[Demonstration], besides those of the game's scripts; None for none
    data: Any
    scorer: Scorer | Judge | None = None  # what it says of matches is told to credit, and stands among the figures
    opponents: Mapping[str, Opponent] = field(default_factory=dict)  # who else may be seated, by name
    benchmark: Benchmark | None = None
    changes: Mapping[int, Recipe] = field(
        default_factory=dict
    )  # from which iteration on the schedule has another recipe

    def recipe(self, number: int) -> Recipe:
        """How iteration `number` learns."""
        if begun := [each for each in self.changes if each <= number]:
            return self.changes[max(begun)]
        return Recipe({node: plain(self.config[node]) for node in ("objective", "learner")}, self.credit, self.learner)


def plain(node: Any) -> Any:
    """A config node as plain JSON."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
