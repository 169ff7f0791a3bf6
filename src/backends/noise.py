"""Counter-based Gumbel noise: a pure function of (seed, position, token), equal for every batch and device.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed 64-bit integer


def gumbel(seed_B: Tensor, position_B: Tensor, tokens: int | Tensor) -> Tensor:
    """Independent standard Gumbel noise, float64, for token `position` of the reply with `seed` (both long).

    `tokens` is the vocabulary's size (noise [B, V]), or the ids to compute it for ([B, K], noise [B, K]).

    Adding it to logits and taking the argmax draws from their softmax (Gumbel, 1954). The bits are a SplitMix64 stream
    (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") whose start is hashed from seed and
    position; the upper 52 of them make a uniform number that is never 0 or 1.
    """
    start_B = _mix(_mix(seed_B + GOLDEN) + (position_B + 1) * GOLDEN)
    steps = _steps(tokens, seed_B.device) if isinstance(tokens, int) else (tokens + 1) * GOLDEN
    bits_BV = _mix(start_B[:, None] + steps)
    uniform_BV = _shift(bits_BV, 12).to(torch.float64).add_(0.5).mul_(2.0**-52)
    return uniform_BV.log_().neg_().log_().neg_()


@lru_cache(maxsize=16)
def _steps(vocab: int, device: torch.device) -> Tensor:
    """(token + 1) * GOLDEN modulo 2^64, for every token [V]."""
    return torch.arange(1, vocab + 1, device=device) * GOLDEN


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on long tensors, whose products wrap around; destroys `x`, which must be fresh."""
    x.bitwise_xor_(_shift(x, 30)).mul_(0xBF58476D1CE4E5B9 - (1 << 64))
    x.bitwise_xor_(_shift(x, 27)).mul_(0x94D049BB133111EB - (1 << 64))
    return x.bitwise_xor_(_shift(x, 31))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's own is arithmetic)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
