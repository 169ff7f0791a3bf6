"""Configurations of optimisers and learning-rate schedules: frozen, and built once the parameters exist."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ..system.bounds import Amount
from . import muon

Named = Iterable[tuple[str, nn.Parameter]]
Schedule = Literal["constant", "linear", "cosine"]


class OptimizerConfig(Protocol):
    """The configuration from which a learner builds its optimisers."""

    def build(self, parameters: Named) -> list[Optimizer]:
        """Optimisers that together cover the parameters which take gradients."""


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay, except on norms and biases. Loshchilov and Hutter 2019, algorithm 2."""

    lr: Amount
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Amount = 0.0

    def build(self, parameters: Named) -> list[Optimizer]:
        groups = _decayed(parameters, self.weight_decay)
        return [torch.optim.AdamW(groups, lr=self.lr, betas=_pair(self.betas), eps=self.eps)]


@dataclass(frozen=True, slots=True)
class RMSProp:
    """Gradients divided by the root of their running mean square (SPIN's optimiser, PyTorch's defaults)."""

    lr: Amount
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: Amount = 0.0

    def build(self, parameters: Named) -> list[Optimizer]:
        groups = _decayed(parameters, self.weight_decay)
        return [torch.optim.RMSprop(groups, lr=self.lr, alpha=self.alpha, eps=self.eps, momentum=self.momentum)]


@dataclass(frozen=True, slots=True)
class Muon:
    """Orthogonalised momentum for the matrices of the blocks, AdamW for embeddings, head, norms and biases.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". `lr` and `weight_decay` apply to the
    matrices, `adamw_lr` and `adamw_weight_decay` to the rest.
    """

    lr: Amount = 0.02
    adamw_lr: Amount = 3e-3
    momentum: float = 0.95
    weight_decay: Amount = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    adamw_weight_decay: Amount = 0.0

    def build(self, parameters: Named) -> list[Optimizer]:
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in parameters:
            if parameter.requires_grad:
                (hidden if _in_block(name) and parameter.ndim == 2 else rest).append(parameter)
        if not hidden:
            raise ValueError("Muon found no trainable matrix inside the model's blocks; use AdamW")
        matrices = muon.Muon(hidden, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if not rest:
            return [matrices]
        decay = self.adamw_weight_decay
        return [
            matrices,
            torch.optim.AdamW(rest, lr=self.adamw_lr, betas=_pair(self.betas), eps=self.eps, weight_decay=decay),
        ]


def _in_block(name: str) -> bool:
    """Whether a parameter's name contains a block's number, as in model.layers.3.mlp.up_proj.weight."""
    return re.search(r"\.\d+\.", name) is not None


def _decayed(parameters: Named, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter takes a gradient: there is nothing to optimise")
    matrices = {"params": [each for each in trained if each.ndim >= 2], "weight_decay": weight_decay}
    vectors = {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def _pair(values: tuple[float, float]) -> tuple[float, float]:
    """Converts the list of a config file."""
    first, second = values
    return first, second


def factor(schedule: Schedule, warmup: float, step: int, steps: int, floor: float = 0.0) -> float:
    """The factor of the learning rate at `step` (from 0) of `steps`.

    It rises linearly over the share `warmup` of the steps, then stays (constant) or falls to `floor` at the end,
    linearly or along half a cosine. It is never 0 at the first step.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    left = (steps - step) / max(steps - rise, 1)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return floor + (1.0 - floor) * left
        case "cosine":
            return floor + (1.0 - floor) * 0.5 * (1.0 - math.cos(math.pi * left))
    raise ValueError(f"unknown schedule {schedule!r}: constant, linear or cosine")
