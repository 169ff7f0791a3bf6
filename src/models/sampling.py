"""Chooses the next token of each row from raw logits, and says which choices were too close to trust.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .noise import gumbel


@dataclass(slots=True)
class Draw:
    """How each row draws: temperature [B] (0 is greedy), top_k [B] (0: off), top_p [B] (1: off), seed [B], position [B]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor
    position: Tensor

    def at(self, row: int) -> Draw:
        """The draw of one row alone."""
        one = slice(row, row + 1)
        return Draw(self.temperature[one], self.top_k[one], self.top_p[one], self.seed[one], self.position[one])


def choose(logits_BV: Tensor, draw: Draw, never_V: Tensor | None, settle: float, truncated: bool, sampled: bool) -> tuple[Tensor, Tensor]:
    """(token [B], close [B]): argmax of logits / temperature + Gumbel noise among the tokens that truncation leaves.

    `close` marks rows whose two best scores, or a truncation's edge, lie within `settle` of each other, which is more
    than the logits of two batches can differ. `never_V` are ids that are never chosen; `truncated` and `sampled` say
    whether any row truncates or draws at all.
    """
    greedy_B1 = (draw.temperature == 0)[:, None]
    scale_B1 = torch.where(greedy_B1, 1.0, draw.temperature[:, None])
    score_BV = logits_BV.double() / scale_B1
    if never_V is not None:
        score_BV = score_BV.masked_fill(never_V, -torch.inf)
    margin_B = settle / scale_B1[:, 0].clamp(max=1.0)  # a low temperature stretches the differences between batches
    close_B = torch.zeros_like(greedy_B1[:, 0])
    if truncated:
        score_BV, close_B = truncate(score_BV, draw.top_k, draw.top_p, margin_B)
        close_B &= ~greedy_B1[:, 0]  # the best token is never cut
    if sampled:
        noise_BV = gumbel(draw.seed, draw.position, logits_BV.shape[1])
        score_BV = torch.where(greedy_B1, score_BV, score_BV + noise_BV)
    best_B2, token_B2 = score_BV.topk(2)
    return token_B2[:, 0], close_B | (best_B2[:, 0] - best_B2[:, 1] < margin_B)


def truncate(score_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor, margin_B: Tensor) -> tuple[Tensor, Tensor]:
    """(scores with -inf outside, close [B]): keeps the `top_k` best, then the fewest of them that reach `top_p`.

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
    near_B = ((before_BV - nucleus_B1).abs() < margin_B[:, None]).any(dim=1) & (top_p_B < 1)
    left_BV = torch.full_like(score_BV, -torch.inf).scatter(1, order_BV, torch.where(keep_BV, all_BV, -torch.inf))
    return left_BV, (cut_B & (edge_B < margin_B)) | near_B
