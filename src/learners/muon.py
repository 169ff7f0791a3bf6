"""Muon for whole and sharded matrices, several at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

TOGETHER = (
    1 << 20
)  # elements orthogonalised at a time, at least one matrix: for small matrices the overhead of calls dominates


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024), with matrices of one shape orthogonalised together.

    The formulas mix the rows of a matrix. So for sharded matrices every rank gathers the momentum of the averaged
    gradient, orthogonalises all of it and keeps its own rows of the result.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is not supported."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                many = max(1, TOGETHER // shape.numel())
                for at in range(0, len(parameters), many):
                    self._move(parameters[at : at + many], group)

    def _move(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        updates = [self._update(parameter, parameter.grad, group) for parameter in parameters]
        rows, columns = parameters[0].shape
        scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
        found = orthogonalised(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
        for parameter, move in zip(parameters, found, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(_as(move, parameter), alpha=-scale)

    def _update(self, parameter: Tensor, grad: Any, group: dict[str, Any]) -> Tensor:
        """The momentum of a matrix after `grad`, gathered if it is sharded."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        return update.full_tensor() if isinstance(update, DTensor) else update


def _as(whole: Tensor, parameter: Tensor) -> Tensor:
    """`whole`, sharded like `parameter`."""
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def orthogonalised(matrices: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """Approximates the nearest semi-orthogonal matrices of `matrices` [n, rows, columns], in bfloat16.

    `steps` of the quintic Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X from X of norm 1 (Jordan et
    al. 2024).
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / torch.stack([each.norm() for each in x]).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
