"""A policy in training, in memory: the module on its devices, its optimisers, and one optimiser step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..batches.packing import collate, supervised
from ..batches.plan import Plan, Step, dealt, plan
from ..data.sample import Sample, Utterance
from ..models.dropout import Dropout
from ..models.policy import Policy
from ..models.sharding import gathered_state
from ..objectives.base import Numbers
from ..system import ranks
from ..system.seeds import derive
from .device import autocast, budget, fabric

if TYPE_CHECKING:
    from .lightning import LightningLearner


class Training:
    """A policy with the optimisers that a learner builds for it, on Lightning Fabric."""

    def __init__(self, learner: LightningLearner, policy: Policy) -> None:
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

    def gradients(self, steps: Plan, step: Step, number: int, ref_M: Tensor | None, seed: int) -> dict[str, Tensor]:
        """Adds the gradients of `step`, which is the `number`th of `steps`; returns this rank's loss and metrics."""
        loss, world, device = self.learner.loss, ranks.world(), self.fabric.device
        before = supervised(steps.samples)
        totals = loss.totals(step.utterances)
        micros = dealt(step.micros, ranks.rank(), world, equal=self.learner.hardware.strategy == "fsdp")
        sums: dict[str, Tensor] = {}
        for at, (micro, counts) in enumerate(micros):
            batch = collate(steps.samples, micro, before, steps.budget.multiple)
            ref_N = None if ref_M is None else ref_M[batch.token_N].to(device)
            batch = batch.to(device)
            if self.dropout is not None:
                self.dropout.key = derive(seed, "step", number, at * world + ranks.rank())
            with self._unsynced(at + 1 < len(micros)):
                with autocast(self.learner.hardware):
                    given = numbers(batch.utterances, device)
                    value, metrics = loss(self.module(batch), ref_N, batch.utterance_N, given, totals)
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

    def share(self, other: Training) -> None:
        """Takes the frozen parameters of `other`, which are the same: one base in memory for several adapters."""
        theirs = dict(other.policy.model.named_parameters())
        for key, parameter in self.policy.model.named_parameters():
            if not parameter.requires_grad:
                parameter.data = theirs[key].data

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


def _whole(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


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
