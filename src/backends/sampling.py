"""Chooses the next token of each row from raw logits, and says which choices were too close to trust.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ..play.player import Sampling
from .noise import gumbel


@dataclass(slots=True)
class Draw:
    """How each row draws: temperature [B] (0 is greedy), top_k [B] (0: off), top_p [B] (1: off), seed [B], position
    [B]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor
    position: Tensor

    def at(self, row: int) -> Draw:
        """The draw of one row alone."""
        one = slice(row, row + 1)
        return Draw(self.temperature[one], self.top_k[one], self.top_p[one], self.seed[one], self.position[one])


def choose(
    logits_BV: Tensor, draw: Draw, kinds: Collection[Sampling], never_V: Tensor | None, settle: float
) -> tuple[Tensor, Tensor]:
    """(token [B], close [B]): argmax of logits / temperature + Gumbel noise among the tokens that truncation leaves.

    `close` marks rows whose two best scores, or a truncation's edge, lie within `settle` of each other, which is more
    than the logits of two batches can differ. `never_V` ([V], or [B, V]) are ids that are never chosen. `kinds` holds
    every setting that occurs among the rows (others too, if need be): what none of them asks for is not computed.
    """
    greedy = any(kind.temperature == 0 for kind in kinds)
    score_BV = logits_BV.to(torch.float64)
    margin: Tensor | float = settle
    if any(kind.temperature != 1 for kind in kinds):
        scale_B = torch.where(draw.temperature == 0, 1.0, draw.temperature) if greedy else draw.temperature
        score_BV = score_BV / scale_B[:, None]
        margin = settle / scale_B.clamp(max=1.0)  # a low temperature stretches the differences between batches
    if never_V is not None:
        score_BV = score_BV.masked_fill(never_V, -torch.inf)
    edge_B = None
    if any(kind.top_k or kind.top_p < 1 for kind in kinds):
        score_BV, edge_B = truncate(score_BV, draw.top_k, draw.top_p, margin)
    if any(kind.temperature for kind in kinds):
        noise_BV = gumbel(draw.seed, draw.position, logits_BV.shape[1])
        score_BV = score_BV + (noise_BV * (draw.temperature != 0)[:, None] if greedy else noise_BV)
    best_B2, token_B2 = score_BV.topk(2)
    close_B = best_B2[:, 0] - best_B2[:, 1] < margin
    if edge_B is not None:  # the best token is never cut
        close_B |= edge_B & (draw.temperature != 0)
    return token_B2[:, 0], close_B


def truncate(score_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor, margin: Tensor | float) -> tuple[Tensor, Tensor]:
    """Keeps the `top_k` best, then the fewest of them that reach `top_p`: (scores with -inf outside, close [B]), where
    `close` marks rows in which a token lies within `margin` of the edge.

    The order is that of transformers: temperature, top-k, top-p (Holtzman et al. 2020, the nucleus) over what is left.
    """
    sorted_BV, order_BV = score_BV.sort(dim=1, descending=True)
    V = score_BV.shape[1]
    rank_V = torch.arange(V, device=score_BV.device)
    limit_B1 = torch.where(top_k_B > 0, top_k_B, V)[:, None]
    sorted_BV = sorted_BV.masked_fill(rank_V >= limit_B1, -torch.inf)
    before_BV = sorted_BV.softmax(dim=1).cumsum(dim=1).roll(1, dims=1)
    before_BV[:, 0] = 0.0
    nucleus_B1 = top_p_B[:, None]
    keep_BV = ((before_BV < nucleus_B1) | (nucleus_B1 >= 1)) & (sorted_BV > -torch.inf)
    last_B1 = keep_BV.sum(dim=1, keepdim=True) - 1
    all_BV = score_BV.gather(1, order_BV)
    edge_B = (all_BV.gather(1, last_B1) - all_BV.gather(1, (last_B1 + 1).clamp(max=V - 1)))[:, 0]
    cut_B = last_B1[:, 0] < (all_BV > -torch.inf).sum(dim=1) - 1
    near_B = ((before_BV - nucleus_B1).abs().amin(dim=1) < margin) & (top_p_B < 1)
    left_BV = torch.full_like(score_BV, -torch.inf).scatter(1, order_BV, torch.where(keep_BV, all_BV, -torch.inf))
    return left_BV, (cut_B & (edge_B < margin)) | near_B
