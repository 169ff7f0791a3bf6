"""A session: trains one policy over the rounds of an iteration, with one optimiser and one schedule.

A round (rollout batch) is one call of `step`. A killed session resumes: it restores the checkpoint that its `Saving`
found, returns the figures of the finished rounds, and continues at the saved optimiser step.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches.packing import MicroBatch
from ..batches.plan import Plan
from ..data.sample import Sample
from ..models import snapshot as snapshots
from ..models.adapter import writable
from ..models.fourbit import FourBit
from ..models.load import load_tokenizer
from ..models.policy import Beneath, Beside
from ..models.snapshot import Snapshot
from ..system import preempt, ranks
from ..system.files import write_json
from ..system.seeds import derive
from . import checkpoint, curve
from .base import Report
from .checkpoint import Part, Saving
from .device import autocast, load, working
from .optim import factor
from .reference import RECORDED, Fixed, foreign, forward, given, recorded
from .training import Settings, Training, share

RECORD, MADE, CARRIED = "learn.json", "snapshot", "carried"  # files that `close` writes


@dataclass(frozen=True, slots=True)
class Span:
    """A session's place in a run whose sessions share one optimiser state: `first` of `rounds` rounds came before it,
    and the previous session saved its optimiser in the folder `carried` (None: there is none)."""

    first: int
    rounds: int
    carried: Path | None = None


class Session:
    """Trains the policy of `snapshot` round by round, and writes the next snapshot to `folder` at the end.

    The policy is loaded on first use. All sessions with the same `saving` share its checkpoints; `policy` is this
    session's name there. Sessions of adapters on one base, and references that are adapters on it, share the base in
    memory.
    """

    def __init__(
        self, learner: Settings, snapshot: Snapshot, folder: Path, *, seed: int, name: str, rounds: int,
        saving: Saving, policy: str, reference: Snapshot | None, span: Span | None = None,
    ) -> None:  # fmt: skip
        self.learner, self.snapshot, self.folder = learner, snapshot, folder
        self.seed, self.name, self.rounds, self.saving = seed, name, rounds, saving
        self.span, self.carries = span or Span(0, rounds), span is not None
        self.policy, self.reference, self._kept = policy, reference, dict[str, Fixed]()
        self.past: dict[int, dict[str, Any]] = {}  # figures of the finished rounds
        self.round, self.curve = 0, list[dict[str, float]]()  # the current round, and its finished steps
        self.columns: dict[str, Tensor] = {}  # [M] log-probs under other models
        self.seconds = 0.0  # spent on computing them
        self._given: dict[str, Tensor] = {}  # [M] columns stored in the round's samples
        self._begun: Part | None = None
        saving.add(policy, self)

    # --- training ---

    def step(self, samples: Sequence[Sample], round: int = 0, progress: Report | None = None) -> dict[str, Any]:
        """Runs all optimiser steps of one round; returns its figures. `progress` is called after each with its row.

        Round 0 draws the same batches as `learn` with the same seed. On a stop signal (`parley.system.preempt`) it
        saves after the current step and raises SystemExit, unless that was the last step: then the owner of `saving`
        checks `saving.stop.asked` after `close`. FloatingPointError if loss or gradient are not finite, InputError if a
        reference does not fit.
        """
        if round in self.past:
            return self.past[round]
        if round != self.round:
            self.round, self.curve, self.columns, self.seconds = round, [], {}, 0.0
        with working(self.learner.hardware):
            self._others(samples)
            steps = self.training.plan(samples, derive(self.seed, "round", round) if round else self.seed)
            self._own(steps)
            self._given = given(samples, self.learner.loss.columns)
            seen = [micro for step in steps[: len(self.curve)] for micro in step.micros]
            self.saving.stop.holding = True
            for number in range(len(self.curve), len(steps)):
                seen += self._step(steps, number, progress)
            figures = curve.of_round(self.curve, self.learner.epochs, steps, seen)
        figures["reference_seconds"] = self.seconds
        self.past[round], self.round, self.curve, self.columns = figures, round + 1, [], {}
        return figures

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, live tensor) with the names and shapes of the Hugging Face or peft state dict; every rank must exhaust
        the iterator."""
        return self.training.weights()

    def close(self) -> Snapshot:
        """Ends the session: writes the snapshot (with `average` the averaged weights), `learn.json`, and with `carry`
        the optimisers."""
        model: Any = self.training.policy.model
        self.training.settle()
        if self.carries:
            checkpoint.carry(self.folder / CARRIED, self.training.policy, self.training.optimizers)
        state = self.training.gathered(trained=self.snapshot.base is not None)

        def write() -> Snapshot:
            write_json(self.folder / RECORD, {"inputs": self.saving.inputs, "metrics": self.figures()})
            tokenizer = load_tokenizer(self.snapshot.base or self.snapshot.path)
            return snapshots.save(writable(model, state), tokenizer, self.folder / MADE, self.name, self.snapshot.base)

        return ranks.shared(write)

    def figures(self) -> dict[str, Any]:
        """The figures of all rounds together."""
        return curve.of_session(list(self.past.values()))

    # --- checkpoints ---

    def save(self, folder: Path) -> None:
        """Writes this rank's part of a checkpoint."""
        training = self.training
        checkpoint.write(folder, training.policy, training.optimizers, self.columns)

    def state(self) -> dict[str, Any]:
        """The rest of a checkpoint, as plain JSON."""
        past = {str(round): figures for round, figures in self.past.items()}
        return {"round": self.round, "curve": self.curve, "seconds": self.seconds, "past": past}

    def load(self, part: Part) -> None:
        """Restores a checkpoint; the weights follow when the policy is loaded."""
        self._begun, state = part, part.state
        self.round, self.curve, self.seconds = state["round"], list(state["curve"]), state["seconds"]
        self.past = {int(round): figures for round, figures in state["past"].items()}
        self.columns = part.columns()

    @property
    def version(self) -> str:
        """The version of the weights between two rounds: the snapshot's version, plus +r<round> after the first step,
        with the number of the next round; +<policy>.r<round> among several policies, which may start from one snapshot.
        Samples with recorded log-probs carry it."""
        if not self.past:
            return self.snapshot.version
        who = f"{self.policy}." if len(self.saving.sessions) > 1 else ""
        return f"{self.snapshot.version}+{who}r{max(self.past) + 1}"

    @property
    def done(self) -> int:
        """Optimiser steps so far, over all rounds."""
        return sum(int(figures["steps"]) for figures in self.past.values()) + len(self.curve)

    @cached_property
    def training(self) -> Training:
        """The policy and its optimisers, restored from the checkpoint if there is one."""
        training = Training(self.learner, load(self.snapshot, self.learner.hardware))
        others = (each for each in self.saving.sessions.values() if isinstance(each, Session))
        if twin := next(filter(self._twin, others), None):
            share(training.policy, twin.training.policy)
        carried = checkpoint.carried(self.span.carried) if self.span.carried else None
        if (begun := self._begun or carried) is not None:
            checkpoint.restore(begun, training.policy, training.optimizers)
        return training

    def _twin(self, other: Session) -> bool:
        """Whether `other` has the same base, and has loaded it."""
        alike = self.learner.hardware == other.learner.hardware and self._same_base(other.snapshot)
        return "training" in vars(other) and alike

    def _same_base(self, other: Snapshot) -> bool:
        """Whether `other` is an adapter on the base of this policy in the same storage format. Sharded bases are not
        shared."""
        mine = self.snapshot
        return (
            mine.base is not None
            and mine.base == other.base
            and not self.learner.hardware.strategy.startswith("fsdp")
            and FourBit.read(mine.path) == FourBit.read(other.path)
        )

    # --- a step ---

    def _step(self, steps: Plan, number: int, progress: Report | None) -> Sequence[MicroBatch]:
        """Runs one optimiser step and synchronises its figures over ranks; returns its micro-batches."""
        started, training, learner = time.perf_counter(), self.training, self.learner
        step = steps[number]
        sums = training.gradients(steps, step, number, self.columns | self._given, self.seed, self._beside())
        at, of = self.round * len(steps) + number, self.rounds * len(steps)
        before, every = self.span.first * len(steps), self.span.rounds * len(steps)
        scale = factor(learner.schedule, learner.warmup, before + at, every, learner.floor)
        norm = training.update(scale, before + self.done)
        row, due, asked = self._agreed(sums, norm, number)
        tokens = sum(sum(micro.sizes) for micro in step.micros)
        seconds = time.perf_counter() - started  # here a GPU has finished the step
        self.curve.append(
            row | {"step": at, "steps": of, "lr": training.lr, "tokens": tokens, "tokens_per_second": tokens / seconds}
        )
        if progress is not None:
            progress(self.curve[-1])
        if (due or asked) and at + 1 < of:
            self.saving.save()
        if asked and at + 1 < of:
            sys.exit(preempt.CODE)
        micros: Sequence[MicroBatch] = step.micros
        return micros

    def _agreed(self, sums: Mapping[str, Tensor], norm: Tensor, number: int) -> tuple[dict[str, float], bool, bool]:
        """(a step's figures summed over ranks, whether to save, whether to stop)."""
        *mine, grad_norm = torch.stack([value.double() for value in (*sums.values(), norm)]).tolist()
        *values, due, asked = ranks.summed(torch.tensor([*mine, *self.saving.asks()], dtype=torch.float64)).tolist()
        row = {**dict(zip(sums, values, strict=True)), "grad_norm": grad_norm}
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(
                f"step {number}: loss {row['loss']}, gradient norm {row['grad_norm']}; lower the learning rate"
            )
        return row, due > 0, asked > 0

    # --- what the policy is compared with ---

    def _others(self, samples: Sequence[Sample]) -> None:
        """Computes log-probs under other models. In a session of one round these are freed before the policy is
        loaded."""
        models = {"old": foreign(self.learner.old), "reference": self.reference}
        for name in self._missing(*models):
            if (model := models[name]) is None or (name == "reference" and self._own_base):
                continue
            started = time.perf_counter()
            with autocast(self.learner.hardware):
                self.columns[name] = self._fixed(model).forward(samples)
            self.seconds += time.perf_counter() - started

    def _fixed(self, model: Snapshot) -> Fixed:
        """A frozen model, loaded once for all rounds; an adapter on the policy's base shares that base."""
        if model.version in self._kept:
            return self._kept[model.version]
        fixed = Fixed(model, self.snapshot, self.learner.hardware)
        if self.rounds > 1 or "kl" in self.learner.loss.columns:
            self._kept[model.version] = fixed
            if self._same_base(model):
                share(fixed.policy, self.training.policy)
        return fixed

    def _beside(self) -> Beside | None:
        """The model whose full distributions the loss compares with at every step."""
        if "kl" not in self.learner.loss.columns:
            return None
        if self.reference is None:
            raise ValueError(f"{type(self.learner.loss).__name__} needs a fixed reference, and none was given")
        return Beneath(self.training.policy) if self._own_base else self._fixed(self.reference).policy

    @property
    def _own_base(self) -> bool:
        """Whether the reference is the base of the policy's own adapter, which needs no second model."""
        model = self.reference
        return model is not None and model.base is None and model.path == self.snapshot.base

    def _own(self, steps: Plan) -> None:
        """Computes log-probs under the policy at the start of the round (recorded, or from a pass), and under its
        base."""
        training, missing = self.training, self._missing("old", "reference")
        if not missing:
            return
        started = time.perf_counter()
        how = (training.policy, steps.samples, steps.budget, training.fabric.device)
        with autocast(self.learner.hardware):
            if "old" in missing and self.learner.old == RECORDED:
                tolerance = 1e-4 if self.learner.hardware.precision == "32-true" else 0.05
                self.columns["old"] = recorded(*how, model=self.version, tolerance=tolerance)
            elif "old" in missing:
                self.columns["old"] = forward(*how)
            if "reference" in missing:
                if not self._own_base:
                    raise ValueError(f"{type(self.learner.loss).__name__} needs a fixed reference, and none was given")
                adapted: Any = training.policy.model
                with adapted.disable_adapter():
                    self.columns["reference"] = forward(*how)
        self.seconds += time.perf_counter() - started
        due, _ = ranks.summed(torch.tensor(self.saving.asks())).tolist()
        if due:
            self.saving.save()

    def _missing(self, *names: str) -> list[str]:
        """Those of the names that the loss needs and that are not computed yet."""
        return [name for name in names if name in self.learner.loss.columns and name not in self.columns]
