"""Attention along the paths of packed trees, for devices without a block-sparse kernel: skips masked blocks.

A row is split into runs, in which every token except the first is the child of the previous one. A run's queries see
the path that leads to it and the run itself, causally: one call of PyTorch's kernel per run.

Legend: B rows, T tokens of a row, H heads, G heads of keys, d width of a head, K keys of all runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..batches.packing import Batch

PATHS = "parley_paths"


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a batch, row after row.

    lengths   queries of each run; they sum to B * T
    seen_K    flat indices into B * T of the keys of all runs: first the path that leads to a run, then the run; None if
              every run sees only itself
    masks     [length, width] of each run, 0 where a query sees a key, else -inf; None: the run starts a tree, plain
              causal
    """

    lengths: tuple[int, ...]
    seen_K: Tensor | None
    widths: tuple[int, ...]
    masks: tuple[Tensor | None, ...]

    def masks_of(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """The masks in `dtype`, which must be that of the queries: PyTorch does not check it and would misread the
        bytes."""
        return tuple(mask if mask is None else mask.to(dtype) for mask in self.masks)


def runs(batch: Batch, dtype: torch.dtype = torch.float32) -> Runs:
    """The runs of a packed batch. Consecutive trees of one token each, such as padding, share a run.

    Masks are additive, best in the queries' `dtype`: PyTorch would convert boolean masks again in every layer.
    """
    device = batch.last_BT.device
    lengths: list[int] = []
    seen: list[np.ndarray] = []
    alone: list[bool] = []
    width = batch.last_BT.shape[1]
    index = np.arange(width)
    lasts, positions = (np.array(each.tolist()) for each in (batch.last_BT, batch.positions_BT))
    for row, (last, position) in enumerate(zip(lasts, positions, strict=True)):
        single = (last == index) & (position == 0)
        joined = (last[:-1] > index[:-1]) | (single[:-1] & single[1:])
        starts = [0, *(1 + np.flatnonzero(~joined)).tolist(), width]
        for start, end in pairwise(starts):
            path = np.flatnonzero(last[:start] >= start)
            lengths.append(end - start)
            seen.append(row * width + np.concatenate([path, index[start:end]]))
            alone.append(bool(single[start]))
    widths = tuple(map(len, seen))
    longest = max((each for length, each in zip(lengths, widths, strict=True) if each > length), default=0)
    causal = torch.full((longest, longest), -math.inf, dtype=dtype, device=device).triu_(
        1
    )  # every path's mask is a slice of it
    masks = tuple(
        _apart(length, causal) if single else causal[each - length : each, :each] if each > length else None
        for length, each, single in zip(lengths, widths, alone, strict=True)
    )
    seen_K = torch.from_numpy(np.concatenate(seen)).to(device) if longest else None
    return Runs(tuple(lengths), seen_K, widths, masks)


def _apart(length: int, like: Tensor) -> Tensor:
    """A mask [length, length] in which each token sees itself only."""
    return like.new_full((length, length), -math.inf).fill_diagonal_(0.0)


def path_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None,
    runs: Runs | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention interface: query [B, H, T, d], key and value [B, G, T, d]; returns [B, T, H, d]. Without
    `runs` the rows are single streams. On a CPU it computes in float32 even under autocast, and casts the result to
    autocast's dtype."""
    if query.device.type == "cpu" and torch.is_autocast_enabled(
        "cpu"
    ):  # half precision has a five times slower backward
        with torch.autocast("cpu", enabled=False):
            q, k, v = query.float(), key.float(), value.float()
            result, _ = path_attention(module, q, k, v, attention_mask, scaling=scaling, runs=runs, **more)
        return result.to(
            torch.get_autocast_dtype("cpu")
        ), None  # autocast skips 4-bit layers, which keep the dtype of their input
    if runs is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    shared = query.shape[1] // key.shape[1]  # query heads per key head
    queries = _in_line(query).split(runs.lengths, 2)
    keys, values = (
        _repeated(_picked(_in_line(each), runs.seen_K), shared).split(runs.widths, 2) for each in (key, value)
    )
    found = [
        scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
        for q, k, v, mask in zip(queries, keys, values, runs.masks_of(query.dtype), strict=True)
    ]
    joined = torch.cat(found, 2)[0].transpose(0, 1)
    return joined.unflatten(0, (query.shape[0], query.shape[2])), None


def _in_line(each: Tensor) -> Tensor:
    """[B, H, T, d] as [1, H, B * T, d], so that runs are slices of one axis."""
    return each.transpose(0, 1).flatten(1, 2)[None]


def _picked(each: Tensor, seen_K: Tensor | None) -> Tensor:
    return each if seen_K is None else each.index_select(2, seen_K)


def _repeated(each: Tensor, times: int) -> Tensor:
    """Repeats each key head `times` times. (Not called for 1, which would copy needlessly.)"""
    return each if times == 1 else each.repeat_interleave(times, 1)


AttentionInterface.register(PATHS, path_attention)
