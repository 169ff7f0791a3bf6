"""Behaviour cloning: imitation of demonstrations, and of the model's own logs that credit kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..data.sample import Utterance
from .base import Numbers
from .reduce import Unit, over, units


@dataclass(frozen=True, slots=True)
class FilteredBC:
    """Weighted negative log-likelihood (lm-selfplay, arXiv:2406.18872, trains so through a fine-tuning service).

    reduce=token:      L = sum_i w_i sum_t -log p(y_it) / sum_i w_i n_i
    reduce=utterance:  L = sum_i w_i (1/n_i) sum_t -log p(y_it) / sum_i w_i

    for utterances i of n_i tokens and weight w_i; both sums run over the whole global batch. Rewards play no part.
    Worked: log-probs (-1, -3) with w = 1 and (-5) with w = .5: by token (4 + 2.5) / 2.5 = 2.6, by utterance (2 + 2.5) / 1.5 = 3.
    Metrics: nll (the loss itself).
    """

    reduce: Unit = "token"

    @property
    def needs_reference(self) -> bool:
        return False

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """`weight`: of all units."""
        return {"weight": sum(each.weight * (each.end - each.start if self.reduce == "token" else 1) for each in utterances)}

    def __call__(
        self, logprob_N: Tensor, ref_N: Tensor | None, utterance_N: Tensor, numbers: Numbers, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        each = units(logprob_N, None, utterance_N, numbers, self.reduce)
        loss = over(-(each.weight_K * each.logprob_K).sum(), totals["weight"])
        return loss, {"nll": loss.detach()}
