"""Muon for sharded matrices: momentum is kept in shards, and a matrix is whole only while it is orthogonalised."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Muon


class ShardedMuon(Muon):
    """`torch.optim.Muon`, whose formulas are rows' mutual affair and so wrong on shards, step for step.

    Every rank gathers each averaged gradient, orthogonalises all of it and keeps its own rows of the result. The
    orthogonalisation is that of PyTorch: a Muon of one matrix without momentum and decay takes a step from 0.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; no closure is called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: DTensor, grad: DTensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update: Any = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        moves = _orthogonal_step(update.full_tensor(), group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(distribute_tensor(moves, grad.device_mesh, grad.placements, src_data_rank=None))


def _orthogonal_step(update: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """What a matrix moves by, for the whole `update` [rows, columns]."""
    moved = torch.nn.Parameter(torch.zeros_like(update))
    moved.grad = update
    more = {key: group[key] for key in ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")}
    Muon([moved], momentum=0.0, nesterov=False, weight_decay=0.0, **more).step()
    return moved.detach()
