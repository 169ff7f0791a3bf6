"""Behaviour cloning (SFT): imitates demonstrations, and the model's own logs that credit kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sample import Utterance
from .base import Columns
from .reduce import Unit, over, units


@dataclass(frozen=True, slots=True)
class FilteredBC:
    """Weighted negative log-likelihood (lm-selfplay, arXiv:2406.18872, which trains through a fine-tuning service).

    reduce=token:      L = sum_i w_i sum_t -log p(y_it) / sum_i w_i n_i
    reduce=utterance:  L = sum_i w_i (1/n_i) sum_t -log p(y_it) / sum_i w_i

    for utterances i of n_i tokens and weight w_i; both sums run over the whole global batch. Rewards are ignored.
    Worked: log-probs (-1, -3) with w = 1 and (-5) with w = .5: by token (4 + 2.5) / 2.5 = 2.6, by utterance (2 + 2.5) /
    1.5 = 3.

    focal=g multiplies every log p by (1 - p)^g, gradient through both (the focal loss, arXiv:1708.02002, eq. 4, of all
    classes). It is an upper bound of the negative log-likelihood minus g times the entropy (arXiv:2002.09437, section
    4), which keeps a model that sees little data many times from becoming overconfident. g = 1 turns the -1 above into
    -.632121.
    Metrics: nll (the loss with focal=0).
    """

    reduce: Unit = "token"
    focal: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.focal <= 10.0:
            raise ValueError(f"focal is {self.focal}, expected 0 (plain likelihood) to 10")

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """`weight`: the sum of the weights of all units."""
        return {
            "weight": sum(each.weight * (each.end - each.start if self.reduce == "token" else 1) for each in utterances)
        }

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def mean(values_N: Tensor) -> Tensor:
            each = units(values_N, None, columns, self.reduce)
            return over(-(each.weight_K * each.logprob_K).sum(), totals["weight"])

        if not self.focal:
            loss = mean(logprob_N)
            return loss, {"nll": loss.detach()}
        doubt_N = -torch.expm1(logprob_N)  # 1 - p; where it is 0 the gradient is 0, but pow would give NaN
        return mean(logprob_N * doubt_N.clamp_min(1e-12) ** self.focal), {"nll": mean(logprob_N.detach())}
