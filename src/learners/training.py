"""A policy in training, in memory: the module on its devices, its optimisers, and one optimiser step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..batches.packing import collate, supervised
from ..batches.plan import Plan, Step, dealt, plan
from ..data.sample import Sample, Utterance
from ..models.dropout import Dropout
from ..models.policy import Beside, Policy
from ..models.sharding import gathered_state
from ..objectives.base import Columns, Objective
from ..system import ranks
from ..system.seeds import derive
from .device import Hardware, autocast, budget, fabric
from .optim import OptimizerConfig, Schedule


class Settings(Protocol):
    """What training reads of a learner (see `parley.learners.lightning.LightningLearner`)."""

    @property
    def loss(self) -> Objective: ...
    @property
    def hardware(self) -> Hardware: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_utterances(self) -> int: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def warmup(self) -> float: ...
    @property
    def floor(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def old(self) -> str: ...
    @property
    def dropout(self) -> float: ...
    @property
    def average(self) -> float: ...


class Training:
    """A policy with the optimisers that a learner builds for it, on Lightning Fabric."""

    def __init__(self, learner: Settings, policy: Policy) -> None:
        hardware = learner.hardware
        self.learner, self.policy = learner, policy.train()
        if hardware.activation_checkpointing:
            policy.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.fabric = fabric(hardware)
        self.module: Any = self.fabric.strategy.setup_module(policy)
        self.optimizers = learner.optimizer.build(policy.named_parameters())
        for group in self._groups():
            group["initial_lr"] = group["lr"]
        self.dropout = Dropout(policy.causal_lm, learner.dropout) if learner.dropout else None

    @property
    def lr(self) -> float:
        """The learning rate of the last step, of the first parameters."""
        return float(next(self._groups())["lr"])

    def plan(self, samples: Sequence[Sample], seed: int) -> Plan:
        """All optimiser steps on `samples`."""
        learner = self.learner
        space = budget(self.policy, learner.hardware, learner.dropout)
        return plan(samples, space, seed=seed, epochs=learner.epochs, batch_utterances=learner.batch_utterances)

    def gradients(
        self, steps: Plan, step: Step, number: int, held: Mapping[str, Tensor], seed: int, fixed: Beside | None = None
    ) -> dict[str, Tensor]:
        """Adds the gradients of `step`, which is the `number`th of `steps`; returns this rank's loss and metrics.

        `held` are columns of all supervised tokens, by name: [M], on the CPU. `fixed` is the model of the column kl.
        """
        loss, world, device = self.learner.loss, ranks.world(), self.fabric.device
        before = supervised(steps.samples)
        totals = loss.totals(step.utterances)
        micros = dealt(step.micros, ranks.rank(), world, equal=self.learner.hardware.strategy.startswith("fsdp"))
        sums: dict[str, Tensor] = {}
        live = [name for name in ("entropy", "kl") if name in loss.columns]
        for at, (micro, counts) in enumerate(micros):
            batch = collate(steps.samples, micro, before, steps.budget.multiple)
            tokens = {name: column_M[batch.token_N].to(device) for name, column_M in held.items()}
            batch = batch.to(device)
            if self.dropout is not None:
                self.dropout.key = derive(seed, "step", number, at * world + ranks.rank())
            with self._unsynced(at + 1 < len(micros)):
                with autocast(self.learner.hardware):
                    logprob_N = self.module(batch, "entropy" in live, fixed) if live else self.module(batch)
                    if live:
                        logprob_N, *others = logprob_N
                        tokens |= zip(live, others, strict=True)
                    given = columns(batch.utterances, batch.utterance_N, tokens, loss.columns, batch.streams)
                    value, metrics = loss(logprob_N, given, totals)
                self.fabric.backward(value * (world * counts))  # ranks' gradients are averaged; the loss is a sum
            for name, figure in {"loss": value, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + figure.detach() * counts
        return sums

    def update(self, scale: float, done: int) -> Tensor:
        """One optimiser step at `scale` times the learning rate, after `done` others; returns the gradient's norm
        before clipping."""
        trained = [each for each in self.policy.parameters() if each.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, self.learner.clip or float("inf"))
        for group in self._groups():
            group["lr"] = group["initial_lr"] * scale
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._average(done)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @torch.no_grad()
    def settle(self) -> None:
        """The averages take the place of the weights."""
        for weight, state in self._averaged():
            weight.copy_(state["average"])

    def gathered(self, trained: bool) -> Mapping[str, Tensor] | None:
        """The state dict where parameters are sharded, whole, on rank 0; None where they are not. Every rank calls."""
        return gathered_state(self.policy.model, trained=trained)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The live weights under Hugging Face's names; an adapter's under peft's, and after them its base's.

        Shards are gathered one parameter at a time, so every rank goes through to the end. A sharded base is left out.
        """
        model: Any = self.policy.model
        if not (adapter := getattr(model, "active_adapter", None)):
            yield from ((name, _whole(each)) for name, each in model.named_parameters())
            return
        for name, each in model.named_parameters():
            if each.requires_grad:
                yield name.replace(f".{adapter}.", "."), _whole(each)
        for name, each in self.policy.causal_lm.named_parameters():
            if not each.requires_grad and not isinstance(each, DTensor):
                yield name.replace(".base_layer.", "."), each.detach()

    def _unsynced(self, more: bool) -> AbstractContextManager[Any]:
        """While more micro-batches of this step follow, replicas need not add up their gradients."""
        return self.module.no_sync() if more and isinstance(self.module, DistributedDataParallel) else nullcontext()

    def _groups(self) -> Iterator[dict[str, Any]]:
        return (group for optimizer in self.optimizers for group in optimizer.param_groups)

    @torch.no_grad()
    def _average(self, done: int) -> None:
        """Moves the averages towards the weights. They lie in the optimisers' state, so that checkpoints hold them."""
        decay = min(self.learner.average, (1 + done) / (10 + done))
        for weight, state in self._averaged():
            if "average" not in state:
                state["average"] = weight.detach().clone()
            state["average"].lerp_(weight, 1 - decay)

    def _averaged(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        if self.learner.average:
            for optimizer in self.optimizers:
                yield from optimizer.state.items()


def share(policy: Policy, other: Policy) -> None:
    """Gives `policy` the frozen parameters of `other`, which are the same: one base in memory for several adapters."""
    theirs = _frozen(other)
    for name, parameter in _frozen(policy).items():
        parameter.data = theirs[name].data


def _frozen(policy: Policy) -> dict[str, Tensor]:
    """The parameters that take no gradients, named alike whichever layers are adapted."""
    named = policy.model.named_parameters()
    return {name.replace(".base_layer.", "."): each for name, each in named if not each.requires_grad}


def _whole(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


OF_TOKENS = ("sampler", "old", "reference", "entropy", "kl")


def columns(
    utterances: Sequence[Utterance], utterance_N: Tensor, tokens: Mapping[str, Tensor] = MappingProxyType({}),
    wanted: Sequence[str] = (), streams: Sequence[int] = (),
) -> Columns:  # fmt: skip
    """The columns of a micro-batch: the numbers of its utterances as tensors [U], its pairs counted from 0, and what an
    objective wants besides, from `tokens` [N] or else from the utterances' own numbers. `streams` [U] numbers the
    stream of each utterance."""
    device, pairs = utterance_N.device, dict[int, int]()

    def floats(values: Iterable[float]) -> Tensor:
        return torch.tensor([float(value) for value in values], device=device)

    pair_U = [-1 if each.pair is None else pairs.setdefault(each.pair, len(pairs)) for each in utterances]
    own = [name for name in wanted if name not in OF_TOKENS]
    numbers = {name: floats(each.numbers.get(name, math.nan) for each in utterances) for name in own}
    return Columns(
        utterance_N=utterance_N,
        reward_U=floats(each.reward for each in utterances),
        weight_U=floats(each.weight for each in utterances),
        sft_U=torch.tensor([each.kind == "sft" for each in utterances], dtype=torch.bool, device=device),
        pair_U=torch.tensor(pair_U, dtype=torch.long, device=device),
        side_U=floats(each.side for each in utterances),
        stream_U=torch.tensor(streams, dtype=torch.long, device=device) if streams else None,
        **{f"{name}_N": tokens[name] for name in OF_TOKENS if name in tokens},
        more={name: tokens.get(name, numbers[name]) for name in own},
    )
