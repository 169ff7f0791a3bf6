"""The learner (trainer) that runs in this process, on Lightning Fabric."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..data.sample import Sample
from ..models import snapshot as snapshots
from ..models.snapshot import Snapshot
from ..objectives.base import Objective
from ..system import preempt, ranks
from ..system.bounds import Amount, Count, PartShare, Share
from ..system.files import InputError, digest, read_json
from .base import Report
from .checkpoint import Saving
from .device import Hardware
from .optim import OptimizerConfig, Schedule
from .reference import data_digest, foreign
from .session import MADE, RECORD, Session, Span

SAVED = "checkpoint"  # subfolder of a call's checkpoints


@dataclass(frozen=True)
class LightningLearner:
    """Trains a snapshot's policy on samples and writes the next snapshot.

    loss               the objective; `epochs` passes over the samples, in global batches of about `batch_utterances`
    optimizer          AdamW, Muon or RMSProp of `parley.learners.optim`
    schedule, warmup   learning rate schedule over the optimiser steps; warmup is a share of the steps
    floor              final learning rate as a share of the initial one (use > 0 with `average`)
    clip               largest norm of the gradient of a global batch, 0 for no limit
    old                source of the log-probs of the policy at a round's start, for losses that need them: pass,
                       recorded, or the path of the model that played (see `parley.learners.reference`)
    dropout            dropout rate of the embeddings and of each layer's outputs (see `parley.models.dropout`); samples
                       then share no prefix in a row, because its noise would be the same for all of them
    average            decay of a moving average of the weights, which the snapshot then holds (Polyak averaging; after
                       n steps the decay is at most (1 + n) / (10 + n), so that early weights are forgotten); 0 for the
                       last weights
    checkpoint_s       seconds between checkpoints, from which a killed call resumes
    carry              keep the optimiser's state from one iteration to the next and run the schedule over all
                       iterations; otherwise both restart with each iteration
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"
    sessions: ClassVar[bool] = True

    loss: Objective
    hardware: Hardware
    optimizer: OptimizerConfig
    epochs: Count = 1
    batch_utterances: Count = 32
    schedule: Schedule = "linear"
    warmup: Share = 0.0
    clip: Amount = 1.0
    old: str = "pass"
    dropout: PartShare = 0.0
    average: PartShare = 0.0
    floor: Share = 0.0
    checkpoint_s: Amount = 300.0
    carry: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise InputError(f"learner.floor is {self.floor}, expected 0 (decay to zero) to 1 (constant)")
        if not 0.0 <= self.average < 1.0:
            raise InputError(f"learner.average is {self.average}, expected 0 (none) or a decay below 1, such as 0.999")
        if self.average and self.hardware.precision == "bf16-true":
            raise InputError(
                "learner.average moves in steps that bfloat16 cannot represent: use "
                "hardware.precision=bf16-mixed, or set it to 0"
            )
        if "kl" in self.loss.columns and self.hardware.strategy.startswith("fsdp"):
            raise InputError(
                "loss.kl=full needs whole weights in every process, and this profile shards them: say kl=k2, or choose "
                "hardware with strategy single or ddp"
            )
        if self.dropout and {"old", "reference", "sampler", "kl"} & set(self.loss.columns):
            raise InputError(
                f"learner.dropout is {self.dropout}, and {type(self.loss).__name__} compares with a reference, which "
                f"dropout would make "
                "another model: set it to 0 (imitate.learner.dropout is for imitation alone)"
            )

    def learn(
        self,
        samples: Sequence[Sample],
        snapshot: Snapshot,
        folder: Path,
        *,
        seed: int,
        name: str,
        reference: Snapshot | None = None,
        progress: Report | None = None,
    ) -> tuple[Snapshot, dict[str, Any]]:
        """Trains `snapshot` (read from disk) on `samples` in a session of one round; returns the new snapshot and the
        metrics.

        Writes `snapshot/` and `learn.json` (the metrics) to `folder`. If the folder holds the finished result of the
        same call, it is returned; if it holds a checkpoint, training resumes there; ValueError if it belongs to another
        call. Other errors are those of `Session.step`; nothing is written on failure.
        """
        inputs = digest(
            [snapshot.version, data_digest(samples), seed, name, repr(self._recipe()), *self._others(reference)]
        )
        saving = Saving(folder / SAVED, inputs, self.checkpoint_s)
        if ranks.shared((folder / MADE).exists):
            made, metrics = _finished(inputs, folder, name, snapshot.base)
            saving.remove()
            return made, metrics
        with saving:
            session = self.session(snapshot, folder, seed=seed, name=name, saving=saving, reference=reference)
            metrics = session.step(samples, progress=progress)
            made = session.close()
            saving.remove()
        if saving.stop.asked:
            sys.exit(preempt.CODE)
        return made, metrics

    def session(
        self, snapshot: Snapshot, folder: Path, *, seed: int, name: str, saving: Saving, rounds: int = 1,
        policy: str = "learner", reference: Snapshot | None = None, span: Span | None = None,
    ) -> Session:  # fmt: skip
        """A session of `rounds` rounds that begins at `snapshot`; its `close` writes the version `name` to `folder`.

        `reference` is the fixed model that the loss compares with, if it does. `span` is the session's place in a run
        with `carry`.
        """
        return Session(
            self, snapshot, folder, seed=seed, name=name, rounds=rounds, saving=saving, policy=policy,
            reference=reference, span=span,
        )  # fmt: skip

    def _others(self, reference: Snapshot | None) -> list[str]:
        """Versions of the other models that a call depends on."""
        other = foreign(self.old) if "old" in self.loss.columns else None
        fixed = reference if {"reference", "kl"} & set(self.loss.columns) else None
        return [each.version for each in (other, fixed) if each]

    def _recipe(self) -> tuple[Any, ...]:
        how = (self.loss, self.optimizer, self.epochs, self.batch_utterances, self.schedule, self.warmup, self.clip)
        return (
            *how,
            *(f"{name}={value}" for name in ("dropout", "average", "floor", "carry") if (value := getattr(self, name))),
        )


def _finished(inputs: str, folder: Path, name: str, base: str | None) -> tuple[Snapshot, dict[str, Any]]:
    record = folder / RECORD
    stored = read_json(record) if record.exists() else None
    if not isinstance(stored, dict) or stored.get("inputs") != inputs or not isinstance(stored.get("metrics"), dict):
        raise InputError(
            f"{folder / MADE} was trained from other inputs: give an empty folder, or remove it to train again"
        )
    return snapshots.of(folder / MADE, name, base), stored["metrics"]
