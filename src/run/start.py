"""The start of a run: the base model, imitation, and each policy's fresh adapter; also offline learning.

All policies share the imitation: their adapters are added to the same snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..data.sample import Sample
from ..learners.base import Learner, Lessons
from ..learners.likelihood import mean_logprob
from ..models import snapshot as snapshots
from ..models.behaviour import Behaviour
from ..models.hub import opened
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..system.seeds import derive
from . import openings
from .cast import History
from .contents import restored, stored
from .demonstrations import Demonstrations, rendered
from .lessons import imported
from .parts import plain
from .run import Run


class Start:
    """Makes the snapshots from which a run begins."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.parts, self.seed = run, run.config, run.parts, run.seed
        self.demonstrations = Demonstrations(run)

    def __call__(self) -> dict[str, Snapshot]:
        """Each policy's snapshot 0: the model after imitation, with a fresh adapter if the policy has one."""
        imitated = self._imitated()
        return {name: self.adapted(name, imitated, 0) for name in self.parts.policies}

    def adapted(self, policy: str, snapshot: Snapshot, number: int) -> Snapshot:
        """`snapshot` with a fresh adapter of `policy`, made in iteration `number`; unchanged if the policy has none, or
        `snapshot` has one already."""
        part = self.parts.policies[policy]
        if part.adapter is None or snapshot.base is not None:
            return snapshot
        name = f"iter_{number:03d}/adapter/{policy}"
        create = partial(part.adapter.create, snapshot, self.run.out / name / "snapshot", derive(self.seed, "adapter"))
        inputs = {"base": snapshot.version, "adapter": part.adapter_node}

        def made() -> dict[str, Any]:
            self.run.progress.note(part.adapter.reach(snapshot))
            return stored(create(), self.run.out)

        return restored(self.run.stage(name, inputs, alone=made), self.run.out)

    def reference(self, policy: str, learner: Learner, magnet: int, history: History) -> Snapshot | None:
        """The fixed model that the loss of `policy` compares with after `history`; None if it needs none. `magnet` is
        the iteration whose snapshot reference=previous means."""
        previous = history[-1][policy]
        if {"reference", "kl"}.isdisjoint(learner.loss.columns):
            return None
        match self.config.reference:
            case "start":
                return self()[policy]
            case "base":
                return snapshots.of(previous.base) if previous.base else self._base()
            case "previous":
                return history[min(magnet, len(history) - 1)][policy]
        return opened(self.config.reference)

    def offline(self) -> dict[str, Snapshot]:
        """The first policy after learning from the data node: samples with rewards or pairs, or the logs that credit
        keeps."""
        policy = next(iter(self.parts.policies))
        begin, recipe = self.adapted(policy, self._base(), 1), self.parts.policies[policy].recipe(0)
        inputs = {"snapshot": begin.version, "seed": self.seed, **recipe.nodes, "data": self.run.node("data")}
        name, folder = "iter_001/learn", self.run.out / "iter_001/learn" / policy

        def work(found: tuple[Lessons, dict[str, int]]) -> dict[str, Any]:
            lessons, kept = found
            return {policy: {**self._taught(recipe.learner, lessons, begin, name, "iter_001", folder), "credit": kept}}

        given = partial(imported, self.run.game, self.parts.data, policy, recipe, begin)
        outputs = self.run.stage(name, inputs, work, alone=given)
        return {policy: restored(outputs[policy]["snapshot"], self.run.out)}

    def _imitated(self) -> Snapshot:
        """The base model, after imitation of the demonstrations if there are any and `imitate` asks for it."""
        imitate = self.config.imitate
        taught = imitate.first and (self.parts.data is not None or imitate.matches > 0)
        base = self._base(again=taught)
        if not taught:
            return base
        self.demonstrations.play("validation")
        learner = plain(self.config.learner)
        inputs = {"base": base.version, "imitate": plain(imitate), "learner": learner}
        outputs = self.run.stage(
            "iter_000/start", inputs, partial(self._imitate, base), alone=partial(self._lessons, base), shared=True
        )
        return restored(outputs["snapshot"], self.run.out)

    def _lessons(self, base: Snapshot) -> tuple[Lessons, list[Sample]]:
        """Training and validation data of imitation: demonstrations of the splits train and validation."""
        demos = self.demonstrations("train")
        if self.parts.imitator.reads == "chats":
            return demos, []
        return rendered(demos, base), rendered(self.demonstrations("validation"), base)

    def _imitate(self, base: Snapshot, lessons: tuple[Lessons, list[Sample]]) -> dict[str, Any]:
        samples, held_out = lessons
        learned = self._taught(
            self.parts.imitator, samples, base, "iter_000/start", "start", self.run.out / "iter_000/start"
        )
        if held_out:
            made = restored(learned["snapshot"], self.run.out)
            learned["learn"]["validation_logprob"] = mean_logprob(held_out, made, self.config.hardware)
        return learned

    def _base(self, again: bool = False) -> Snapshot:
        """The base model (a tiny one takes its vocabulary from the demonstrations, which are cached if needed
        `again`)."""
        self.demonstrations.play("train")
        inputs = {"model": plain(self.config.model), **self.demonstrations.inputs("train")}
        made = self.run.stage("iter_000/base", inputs, alone=partial(self._create, again), shared=True)
        base = restored(made, self.run.out)
        if base.served is None:
            renderer = Renderer.load(base.base or base.path)
            self.run.progress.note(f"chat template: {Behaviour.of(renderer).text()}")
        return base

    def _create(self, again: bool) -> dict[str, Any]:
        chats = (demo.messages for demo in self.demonstrations("train", again=again))
        folder: Path = self.run.out / "iter_000/base/model"
        made = self.parts.model.create(folder, chats, derive(self.seed, "model"))
        openings.check(self.run.game, made)
        for name, each in self.parts.opponents.items():
            openings.check(self.run.game, each.snapshot, f"opponents.{name}: ")
        return stored(made, self.run.out)

    def _taught(
        self, learner: Learner, samples: Lessons, begin: Snapshot, name: str, version: str, folder: Path
    ) -> dict[str, Any]:
        made, metrics = taught(self.run, learner, samples, begin, folder, name, version)
        return {"snapshot": stored(made, self.run.out), "learn": metrics}


def taught(
    run: Run, learner: Learner, samples: Lessons, begin: Snapshot, folder: Path, name: str, version: str
) -> tuple[Snapshot, dict[str, Any]]:
    """Calls `learner.learn` with the seed and the progress bar of the stage `name`; returns (snapshot, figures)."""
    with run.progress.stage(name, None, "steps") as bar:
        made, metrics = learner.learn(
            samples, begin, folder, seed=derive(run.seed, "learn", name), name=version, progress=partial(step, bar)
        )
    return made, {key: value for key, value in metrics.items() if key != "curve"}


def step(bar: Any, row: Mapping[str, float]) -> None:
    """Advances a progress bar by one optimiser step."""
    bar.total = int(row["steps"])
    bar.found(max(int(row["step"]) - bar.done, 0))
    bar.advance(1, loss=float(row["loss"]), tokens=int(row["tokens"]))
