"""What every objective is given and gives back.

Legend: N supervised tokens of a micro-batch, U utterances of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..data.sample import Utterance


@dataclass(frozen=True, slots=True)
class Numbers:
    """Per-utterance numbers of a micro-batch, as credit gave them."""

    reward_U: Tensor  # float
    weight_U: Tensor  # float; 0 for padding
    sft_U: Tensor  # bool: kind == "sft"
    pair_U: Tensor  # long: index of the pair within the micro-batch, -1 without one
    side_U: Tensor  # float: +1 real or chosen, -1 generated or rejected, 0 without a pair


class Objective(Protocol):
    """A loss that is normalised over the whole global batch, whatever the micro-batches, ranks or accumulation.

    The sum of the losses of all micro-batches of a global batch, on all ranks, is the loss of that batch.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether `ref_N` must be given, so that the reference pass is run."""

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """The denominators of a global batch, from all its utterances."""

    def __call__(
        self,
        logprob_N: Tensor,
        ref_N: Tensor | None,
        utterance_N: Tensor,
        numbers: Numbers,
        totals: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics). `utterance_N` (long) tells which utterance each token belongs to; metrics are sums that are
        divided by nothing but `totals`, so that adding them over micro-batches and ranks gives the batch's figure."""


def per_utterance(value_N: Tensor, utterance_N: Tensor, utterances: int, mean: bool) -> Tensor:
    """Sums (or means) of `value_N` [N] over each utterance, as a tensor [U]; an empty utterance gives 0."""
    total_U = value_N.new_zeros(utterances).index_add(0, utterance_N, value_N)
    if not mean:
        return total_U
    count_U = value_N.new_zeros(utterances).index_add(0, utterance_N, torch.ones_like(value_N))
    return total_U / count_U.clamp(min=1.0)
