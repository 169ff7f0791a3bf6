"""The learner that trains in this process: Lightning's trainer around the policy module, an objective and an
optimiser."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..batches.packing import Batch, Budget, MicroBatch, collate, supervised
from ..batches.plan import Plan, dealt, efficiency, plan
from ..data.sample import Sample, Utterance
from ..models import snapshot as snapshots
from ..models.adapter import writable
from ..models.dropout import Dropout
from ..models.load import load_policy, load_tokenizer
from ..models.policy import EVEN, Policy, check_packable
from ..models.sharding import gathered_state, load_sharded
from ..models.snapshot import Snapshot
from ..objectives.base import Numbers, Objective
from ..system import preempt, ranks
from ..system.files import InputError, digest, write_json
from ..system.seeds import derive
from . import checkpoint
from .base import Report
from .optim import OptimizerConfig, Schedule, factor
from .reference import RECORDED, check_vocabulary, data_digest, foreign, recorded, reference

RECORD, MADE, SAVED = "learn.json", "snapshot", "checkpoint"  # what lies in a call's folder


class Hardware(Protocol):
    """What the learner reads of a hardware profile."""

    accelerator: str
    devices: int
    nodes: int
    strategy: str
    precision: str
    threads: int
    micro_tokens: int
    row_tokens: int
    head_chunk: int
    activation_checkpointing: bool


@dataclass(frozen=True)
class LightningLearner:
    """Trains a snapshot's policy on samples and writes the next one.

    loss               the objective; `epochs` passes over the samples, in global batches of about `batch_utterances`
    optimizer          AdamW, Muon or RMSProp of `parley.learners.optim`
    schedule, warmup   of the learning rate over the optimiser steps; warmup is a fraction of them
    floor              share of the learning rate that is left at the end: with averaged weights the last steps may be
                       large ones
    clip               largest norm of the gradient of a global batch, 0 for no limit
    reference          where the log-probs come from that the loss compares with, where it does: pass, recorded, or the
                       path of a model folder (see `parley.learners.reference`)
    dropout            share of the embeddings and of each layer's outputs that is zeroed in training (see
                       `parley.models.dropout`); samples then share no prefix in a row, as its noise would be the same
                       for all of them
    average            decay of a moving average of the weights, which is what the snapshot then holds (Polyak
                       averaging; after n steps the decay is at most (1 + n) / (10 + n), so that the beginning is
                       forgotten); 0 for the last weights
    checkpoint_s       seconds between checkpoints, from which a call that was killed goes on
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"

    loss: Objective
    hardware: Hardware
    optimizer: OptimizerConfig
    epochs: int = 1
    batch_utterances: int = 32
    schedule: Schedule = "linear"
    warmup: float = 0.0
    clip: float = 1.0
    reference: str = "pass"
    dropout: float = 0.0
    average: float = 0.0
    floor: float = 0.0
    checkpoint_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise InputError(f"learner.floor is {self.floor}, expected 0 (down to nothing) to 1 (constant)")
        if not 0.0 <= self.average < 1.0:
            raise InputError(f"learner.average is {self.average}, expected 0 (none) or a decay below 1, such as 0.999")
        if self.average and self.hardware.precision == "bf16-true":
            raise InputError(
                "learner.average moves by less than bfloat16 can tell: use hardware.precision=bf16-mixed, or set it "
                "to 0"
            )
        if self.dropout and self.loss.needs_reference:
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
        progress: Report | None = None,
    ) -> tuple[Snapshot, dict[str, Any]]:
        """The snapshot after training `snapshot` (read from disk) on `samples`, and what happened on the way.

        `folder` receives `snapshot/`, `learn.json` (the metrics) and, where the objective needs one, the reference's
        log-probs. A folder in which the same call was finished gives back what it holds, one in which it was cut off
        goes on from its last checkpoint; ValueError when another call was. `progress` is called after each optimiser
        step with its figures. Asked to stop (`parley.system.preempt`), it saves after the step at hand and leaves with
        SystemExit. FloatingPointError when loss or gradient stop being finite, InputError when the reference cannot
        serve; nothing is written then.
        """
        other = foreign(self.reference) if self.loss.needs_reference else None
        inputs = digest(
            [
                snapshot.version,
                data_digest(samples),
                seed,
                name,
                repr(self._recipe()),
                *([other.version] if other else []),
            ]
        )
        if ranks.shared((folder / MADE).exists):
            return self._finished(inputs, folder, name, snapshot.base)
        with _quiet(), _threads(self.hardware.threads), preempt.listening() as stop:
            saving = checkpoint.Saving(folder / SAVED, inputs, self.checkpoint_s, stop)
            started = time.perf_counter()
            ref_M = self._foreign(other, snapshot, samples, folder) if other else None
            spent = time.perf_counter() - started if other else 0.0
            training = self._training(samples, snapshot, folder, seed, saving, progress)
            training.ref_M, training.reference_seconds = ref_M, spent
            self._fit(training, folder)
            new = self._written(training, inputs, snapshot, folder, name) if training.finished else None
        if new is None or stop.asked:
            sys.exit(preempt.CODE)
        return new, training.metrics()

    def _recipe(self) -> tuple[Any, ...]:
        how = (self.loss, self.optimizer, self.epochs, self.batch_utterances, self.schedule, self.warmup, self.clip)
        return (
            *how,
            *(f"{name}={value}" for name in ("dropout", "average", "floor") if (value := getattr(self, name))),
        )

    def _finished(self, inputs: str, folder: Path, name: str, base: str | None) -> tuple[Snapshot, dict[str, Any]]:
        record = folder / RECORD
        stored: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {"inputs": None}
        if stored["inputs"] != inputs:
            raise ValueError(
                f"{folder / MADE} was trained from other inputs: give an empty folder, or remove it to train again"
            )
        if ranks.rank() == 0:
            checkpoint.remove(folder / SAVED)
        return snapshots.of(folder / MADE, name, base), stored["metrics"]

    def _written(self, training: _Training, inputs: str, snapshot: Snapshot, folder: Path, name: str) -> Snapshot:
        """Writes what a finished call leaves, which rank 0 does, and removes its checkpoints."""
        model: Any = training.policy.model
        training.settle()
        state = gathered_state(model, trained=snapshot.base is not None)

        def write() -> Snapshot:
            write_json(folder / RECORD, {"inputs": inputs, "metrics": training.metrics()})
            tokenizer = load_tokenizer(snapshot.base or snapshot.path)
            made = snapshots.save(writable(model, state), tokenizer, folder / MADE, name, snapshot.base)
            checkpoint.remove(folder / SAVED)
            return made

        return ranks.shared(write)

    def _foreign(self, model: Snapshot, snapshot: Snapshot, samples: Sequence[Sample], folder: Path) -> Tensor:
        """Log-probs [M] of all supervised tokens under another `model`, which is gone again when this returns."""
        check_vocabulary(model, snapshot)
        policy = load(model, self.hardware)
        device, file = policy.causal_lm.device, folder / "reference.safetensors"
        with torch.autocast(device.type, torch.bfloat16, enabled=self.hardware.precision == "bf16-mixed"):
            return reference(policy, samples, budget(policy, self.hardware), file, model=model.version, device=device)

    def _training(
        self,
        samples: Sequence[Sample],
        snapshot: Snapshot,
        folder: Path,
        seed: int,
        saving: checkpoint.Saving,
        progress: Report | None,
    ) -> _Training:
        policy = load(snapshot, self.hardware).train()
        if self.hardware.activation_checkpointing:
            policy.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        space = budget(policy, self.hardware, self.dropout)
        steps = plan(samples, space, seed=seed, epochs=self.epochs, batch_utterances=self.batch_utterances)
        return _Training(
            self, policy, steps, folder / "reference.safetensors", snapshot.version, seed, saving, progress
        )

    def _fit(self, training: _Training, folder: Path) -> None:
        trainer = pl.Trainer(
            accelerator=self.hardware.accelerator, devices=self.hardware.devices, num_nodes=self.hardware.nodes,
            strategy=_strategy(self.hardware.strategy),
            plugins=[TorchElasticEnvironment()] if ranks.world() > 1 else None,
            precision=self.hardware.precision, max_epochs=1,  # type: ignore[arg-type]
            default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(training)


def _strategy(name: str) -> Any:
    """Lightning's strategy of a hardware profile, over the process group that is there."""
    match name:
        case "ddp":
            return DDPStrategy(gradient_as_bucket_view=True)
        case "fsdp":
            return ModelParallelStrategy(data_parallel_size=ranks.world(), tensor_parallel_size=1)
    return "auto"


def load(snapshot: Snapshot, hardware: Hardware) -> Policy:
    """The policy of a snapshot on the profile's device, with the attention kernel that suits packed rows there.

    Of an adapter's snapshot the adapter alone takes gradients; in mixed precision its frozen base is held in bfloat16.
    With the strategy fsdp the policy is sharded over the ranks, all of which must load it.
    """
    device = _device(hardware)
    mixed, sharded = hardware.precision == "bf16-mixed", hardware.strategy == "fsdp"
    half = hardware.precision == "bf16-true" or (mixed and snapshot.base is not None)
    dtype = "bfloat16" if half else "float32"
    if sharded:
        policy = load_sharded(snapshot, dtype, device, hardware.head_chunk, mixed)
    else:
        policy = Policy(load_policy(snapshot, dtype, device, trainable=True), hardware.head_chunk)
    if device == "cuda":
        policy.use_block_sparse_attention()
    else:
        policy.use_path_attention()
    check_packable(policy, 0.05 if sharded and mixed else None)
    return policy


def _device(hardware: Hardware) -> str:
    return "cuda" if hardware.accelerator in ("gpu", "cuda") else "cpu"


def budget(policy: Policy, hardware: Hardware, dropout: float = 0.0) -> Budget:
    """The profile's budget for samples that `policy` will see.

    Rows have few lengths where kernels are compiled for each that they meet: attention's on a GPU, and on a CPU
    oneDNN's for products in half precision, which it also keeps, a thousand of them.
    """
    multiple = EVEN if _device(hardware) == "cuda" or hardware.precision != "32-true" else 1
    return Budget(
        hardware.row_tokens, hardware.micro_tokens, policy.packable, policy.attention_tokens, dropout > 0, multiple
    )


def numbers(utterances: Sequence[Utterance], device: torch.device | str = "cpu") -> Numbers:
    """The numbers of a micro-batch's utterances as tensors [U]; its pairs are numbered from 0."""
    pairs: dict[int, int] = {}
    pair_U = [-1 if each.pair is None else pairs.setdefault(each.pair, len(pairs)) for each in utterances]
    return Numbers(
        reward_U=torch.tensor([float(each.reward) for each in utterances], device=device),
        weight_U=torch.tensor([float(each.weight) for each in utterances], device=device),
        sft_U=torch.tensor([each.kind == "sft" for each in utterances], dtype=torch.bool, device=device),
        pair_U=torch.tensor(pair_U, dtype=torch.long, device=device),
        side_U=torch.tensor([float(each.side) for each in utterances], device=device),
    )


class _Training(pl.LightningModule):
    """One iteration's optimisation: the n-th training step is the n-th optimiser step of the plan."""

    def __init__(
        self, learner: LightningLearner, policy: Policy, steps: Plan, kept: Path, version: str, seed: int,
        saving: checkpoint.Saving,
        progress: Report | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.learner, self.policy, self.plan, self.kept, self.version = learner, policy, steps, kept, version
        self.seed, self.saving, self.progress = seed, saving, progress
        self.before = supervised(steps.samples)
        self.ref_M: Tensor | None = None
        self.curve: list[dict[str, float]] = []
        self.seen: list[MicroBatch] = []
        self.reference_seconds = 0.0
        self.dropout = Dropout(policy.causal_lm, learner.dropout) if learner.dropout else None
        if saving.begun is not None:
            self.curve = list(saving.begun.curve)
            self.seen = [micro for step in steps[: len(self.curve)] for micro in step.micros]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return len(self.curve) == len(self.plan)

    def configure_model(self) -> None:
        """Nothing is left to do: where weights are sharded, `load` did it. (Lightning wants this hook of whoever
        shards.)"""

    def train_dataloader(self) -> range:
        """The optimiser steps that are still to do; a step finds its data in the plan."""
        return range(len(self.curve), len(self.plan))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = self.learner.optimizer.build(self.policy.named_parameters())
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers

    def on_train_start(self) -> None:
        """The reference pass (or the look at what was recorded), while the policy is still the one that the iteration
        started from; then the checkpoint, where there is one. From here on a signal to stop waits for the end of a
        step."""
        self.saving.stop.listen()  # Lightning has put handlers of its own
        if self.learner.loss.needs_reference and self.ref_M is None:
            started = time.perf_counter()
            tolerance = 1e-4 if self.trainer.precision == "32-true" else 0.05
            source = partial(recorded, tolerance=tolerance) if self.learner.reference == RECORDED else reference
            with self.trainer.precision_plugin.forward_context():
                self.ref_M = source(
                    self.policy, self.plan.samples, self.plan.budget, self.kept, model=self.version, device=self.device
                )
            self.reference_seconds = time.perf_counter() - started
        if self.saving.begun is not None:
            checkpoint.restore(self.saving.begun, self.policy, self.trainer.optimizers)
        self.saving.stop.holding = True

    def training_step(self, number: int, _index: int) -> None:
        started = time.perf_counter()
        step, world = self.plan[number], ranks.world()
        totals = self.learner.loss.totals(step.utterances)
        micros = dealt(step.micros, ranks.rank(), world, equal=self.learner.hardware.strategy == "fsdp")
        sums: dict[str, Tensor] = {}
        for at, (micro, counts) in enumerate(micros):
            batch = collate(self.plan.samples, micro, self.before, self.plan.budget.multiple)
            if self.dropout is not None:
                self.dropout.key = derive(self.seed, "step", number, at * world + ranks.rank())
            with self._unsynced(at + 1 < len(micros)):
                loss, metrics = self._loss(batch, totals)
                with torch.autocast(
                    self.device.type, enabled=False
                ):  # Lightning's lasts the whole step; gradients have their types
                    self.manual_backward(
                        loss * (world * counts)
                    )  # data-parallel strategies average over ranks; the loss is a sum
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * counts
        self.seen += step.micros
        norm = self._update(
            factor(self.learner.schedule, self.learner.warmup, number, len(self.plan), self.learner.floor)
        )
        due, asked = self._note(number, sums, norm, sum(sum(micro.sizes) for micro in step.micros), started)
        if (due or asked) and not self.finished:
            self.saving.save(self.policy, self.trainer.optimizers, self.curve)
        self.trainer.should_stop = asked

    def _loss(self, batch: Batch, totals: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        ref_N = None if self.ref_M is None else self.ref_M[batch.token_N].to(self.device)
        batch = batch.to(self.device)
        return self.learner.loss(
            self.policy(batch), ref_N, batch.utterance_N, numbers(batch.utterances, self.device), totals
        )

    def _unsynced(self, more: bool) -> Any:
        """While more micro-batches of this step follow, ranks need not add up their gradients."""
        strategy: Any = self.trainer.strategy
        return strategy.block_backward_sync() if more and hasattr(strategy, "block_backward_sync") else nullcontext()

    def _update(self, scale: float) -> Tensor:
        """One optimiser step at `scale` times the learning rate; returns the gradient's norm before clipping."""
        optimizers: Any = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        trained = [each for each in self.policy.parameters() if each.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, self.learner.clip or float("inf"))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
            optimizer.step()
            optimizer.zero_grad()
        self._average()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the averages towards the weights. They lie in the optimisers' state, so that checkpoints hold them."""
        done = len(self.curve)
        decay = min(self.learner.average, (1 + done) / (10 + done))
        for weight, state in self._averaged():
            if "average" not in state:
                state["average"] = weight.detach().clone()
            state["average"].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """The averages take the place of the weights."""
        for weight, state in self._averaged():
            weight.copy_(state["average"])

    def _averaged(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        if self.learner.average:
            for optimizer in self.trainer.optimizers:
                yield from optimizer.state.items()

    def _note(
        self, number: int, sums: Mapping[str, Tensor], norm: Tensor, tokens: int, started: float
    ) -> tuple[bool, bool]:
        """Adds a step's figures to the curve; returns what the ranks agree on: whether to save, and whether to stop."""
        *mine, grad_norm = torch.stack([value.double() for value in (*sums.values(), norm)]).tolist()
        *values, due, asked = ranks.summed(torch.tensor([*mine, *self.saving.asks()], dtype=torch.float64)).tolist()
        row = {**dict(zip(sums, values, strict=True)), "grad_norm": grad_norm}
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(
                f"step {number}: loss {row['loss']}, gradient norm {row['grad_norm']}; lower the learning rate"
            )
        seconds = time.perf_counter() - started  # a GPU has only now done the step
        row |= {
            "step": number,
            "steps": len(self.plan),
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "tokens": tokens,
        }
        self.curve.append(row | {"tokens_per_second": tokens / seconds})
        if self.progress is not None:
            self.progress(self.curve[-1])
        return due > 0, asked > 0

    def metrics(self) -> dict[str, Any]:
        """Means over the last epoch's steps, counts, speed, and the `curve` of all steps. `packing` is how many times
        more tokens one row per utterance would cost; `padding` the share of the computed tokens that is padding."""
        last = self.curve[-max(len(self.curve) // self.learner.epochs, 1) :]
        packed = efficiency(self.seen, self.plan.samples)
        names = [name for name in last[0] if name not in ("step", "steps", "lr", "tokens", "tokens_per_second")]
        tokens = sum(row["tokens"] for row in self.curve)
        return {
            **{name: sum(row[name] for row in last) / len(last) for name in names},
            "steps": len(self.curve),
            "samples": sum(bool(each.utterances) for each in self.plan.samples),
            "utterances": sum(len(each.utterances) for each in self.plan.samples),
            "tokens": tokens,
            "tokens_per_second": tokens / sum(row["tokens"] / row["tokens_per_second"] for row in self.curve),
            "packing": packed.tokens_per_utterance / packed.tokens_packed,
            "padding": packed.padding,
            "reference_seconds": self.reference_seconds,
            "curve": self.curve,
        }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch's threads inside an operator, while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banner and its advice about data loader workers."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)
