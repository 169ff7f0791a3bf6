"""Dropout with deterministic masks for training on little data: a repeated step has the same masks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..system.seeds import derive


class Dropout:
    """Zeroes the share `p` of the embeddings and of the outputs of attention and feed-forward layers (before the
    residual sum).

    The rest is scaled by 1 / (1 - p) (Srivastava et al. 2014, JMLR 15, section 10); `p` is rounded to 16 bits. It acts
    while `model`, a causal model of transformers, is in training mode. The trainer sets `key` before each forward;
    masks depend only on it and the place in the model, so that activation checkpointing and a resumed run get the same
    masks. They belong to positions in a packed row: another packing gives other masks.
    """

    def __init__(self, model: Any, p: float) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout is {p}, expected at least 0 and less than 1")
        self.p, self.key = p, 0
        for number, place in enumerate((model.get_input_embeddings(), *parts(model))):
            place.register_forward_hook(partial(self._after, number))

    def _after(self, number: int, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        return (self._drop(output[0], number), *output[1:]) if isinstance(output, tuple) else self._drop(output, number)

    def _drop(self, values: Tensor, number: int) -> Tensor:
        drawn = torch.Generator(values.device).manual_seed(derive(self.key, "dropout", number))
        fours = torch.empty(
            -(-values.numel() // 4), dtype=torch.int64, device=values.device
        )  # drawing dominates the cost
        bits = fours.random_(-(2**63), None, generator=drawn).view(torch.int16)[: values.numel()].view(values.shape)
        mask = bits.ge(min(round(self.p * 2**16), 2**16 - 1) - 2**15).to(values.dtype)
        return values * mask.mul_(1.0 / (1.0 - self.p))


def parts(model: nn.Module) -> list[nn.Module]:
    """The attention and feed-forward modules of a causal model's blocks, in order."""
    return [
        child
        for block in blocks(model)
        for child in block.children()
        if any(each.ndim > 1 for each in child.parameters())
    ]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a causal model, in order. (Sharding makes a subclass of each.)"""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if any(kind.__name__ in names for kind in type(module).__mro__)]
    if not found:
        raise ValueError(f"{type(model).__name__} does not say what its blocks are (_no_split_modules)")
    return found
