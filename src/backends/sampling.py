"""Chooses the next token of each row from raw logits, and marks choices that are too close to be reproducible.

Legend: B rows, V vocabulary, K candidates.
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
    """The sampling parameters of each row: temperature [B] (0 is greedy), top_k [B] (0: off), top_p [B] (1: off), seed
    [B], position [B]."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor
    position: Tensor

    def at(self, row: int) -> Draw:
        """The parameters of one row."""
        one = slice(row, row + 1)
        return Draw(self.temperature[one], self.top_k[one], self.top_p[one], self.seed[one], self.position[one])


def choose(
    logits_BV: Tensor, draw: Draw, kinds: Collection[Sampling], never_V: Tensor | None, settle: float
) -> tuple[Tensor, Tensor]:
    """(token [B], close [B]): argmax of logits / temperature + Gumbel noise among the tokens that truncation keeps.

    `close` marks rows whose two best scores, or a truncation's edge, lie within `settle` of each other, more than the
    logits of two batches can differ. `never_V` ([V], or [B, V]) marks ids that are never chosen. `kinds` holds at least
    all settings among the rows; truncations that none of them uses are not computed.
    """
    if never_V is not None:
        logits_BV = logits_BV.masked_fill(never_V, -torch.inf)
    edge_B = token_BK = None
    if any(kind.top_k or kind.top_p < 1 for kind in kinds):
        logits_BV, token_BK = candidates(logits_BV, kinds)
    greedy = any(kind.temperature == 0 for kind in kinds)
    score_BK = logits_BV.to(torch.float64)
    margin: Tensor | float = settle
    if any(kind.temperature != 1 for kind in kinds):
        scale_B = torch.where(draw.temperature == 0, 1.0, draw.temperature) if greedy else draw.temperature
        score_BK = score_BK / scale_B[:, None]
        margin = settle / scale_B.clamp(max=1.0)  # a low temperature magnifies the differences between batches
    if token_BK is not None:
        score_BK, edge_B = truncate(score_BK, draw.top_k, draw.top_p, margin)
    if any(kind.temperature for kind in kinds):
        noise_BK = gumbel(draw.seed, draw.position, logits_BV.shape[1] if token_BK is None else token_BK)
        score_BK = score_BK + (noise_BK * (draw.temperature != 0)[:, None] if greedy else noise_BK)
    best_B2, at_B2 = score_BK.topk(2)
    close_B = best_B2[:, 0] - best_B2[:, 1] < margin
    if edge_B is not None:  # truncation always keeps the best token
        close_B |= edge_B & (draw.temperature != 0)
    return at_B2[:, 0] if token_BK is None else token_BK.gather(1, at_B2[:, :1])[:, 0], close_B


def candidates(logits_BV: Tensor, kinds: Collection[Sampling]) -> tuple[Tensor, Tensor]:
    """(logits, ids), [B, K] each, best first: all tokens, or if every row uses top-k, one more than any row keeps.

    The extra one tells whether the edge is close. So top-k alone never sorts a large vocabulary.
    """
    most = max(kind.top_k for kind in kinds) + 1 if all(kind.top_k for kind in kinds) else logits_BV.shape[1]
    found: tuple[Tensor, Tensor] = logits_BV.topk(min(max(most, 2), logits_BV.shape[1]))
    return found


def truncate(score_BK: Tensor, top_k_B: Tensor, top_p_B: Tensor, margin: Tensor | float) -> tuple[Tensor, Tensor]:
    """Keeps the first `top_k` of sorted scores, then the fewest of them that reach `top_p`. Returns (scores with -inf
    outside, close [B]); `close` marks rows with a token within `margin` of the edge.

    The order is that of transformers: temperature, top-k, top-p (Holtzman et al. 2020, the nucleus) over the remaining
    tokens.
    """
    K = score_BK.shape[1]
    limit_B1 = torch.where(top_k_B > 0, top_k_B, K)[:, None]
    kept_BK = score_BK.masked_fill(torch.arange(K, device=score_BK.device) >= limit_B1, -torch.inf)
    before_BK = kept_BK.softmax(dim=1).cumsum(dim=1).roll(1, dims=1)
    before_BK[:, 0] = 0.0
    nucleus_B1 = top_p_B[:, None]
    keep_BK = ((before_BK < nucleus_B1) | (nucleus_B1 >= 1)) & (kept_BK > -torch.inf)
    last_B1 = keep_BK.sum(dim=1, keepdim=True) - 1
    edge_B = (score_BK.gather(1, last_B1) - score_BK.gather(1, (last_B1 + 1).clamp(max=K - 1)))[:, 0]
    cut_B = last_B1[:, 0] < (score_BK > -torch.inf).sum(dim=1) - 1
    near_B = ((before_BK - nucleus_B1).abs().amin(dim=1) < margin) & (top_p_B < 1)
    return score_BK.masked_fill(~keep_BK, -torch.inf), (cut_B & (edge_B < margin)) | near_B
