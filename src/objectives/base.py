"""What every objective is given and gives back.

Legend: N supervised tokens of a micro-batch, U utterances of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..data.sample import Utterance


@dataclass(frozen=True, slots=True)
class Columns:
    """What stands beside the log-probs of a micro-batch: of each token [N], and of each utterance [U].

    utterance_N  long: the utterance of each token
    reward_U     float: reward or advantage; weight_U: float, 0 for padding
    sft_U        bool: kind == "sft"
    pair_U       long: index of the pair within the micro-batch, -1 without one
    side_U       float: +1 real or chosen, -1 generated or rejected, 0 without a pair
    stream_U     long: the stream of each utterance, counted within the micro-batch

    and of what the objective names in `columns`, without gradient but for entropy and kl:

    sampler_N    log-probs that the sampler recorded, NaN where it did not
    old_N        log-probs under the policy as the round began
    reference_N  log-probs under a fixed model
    entropy_N    entropy in nats of the policy's distribution at the token, with gradient
    kl_N         KL divergence in nats of that distribution to a fixed model's, with gradient
    more         a credit's own: `Utterance.numbers` [U] and `Sample.tokens` [N], by name, NaN where there is none
    """

    utterance_N: Tensor
    reward_U: Tensor
    weight_U: Tensor
    sft_U: Tensor
    pair_U: Tensor
    side_U: Tensor
    stream_U: Tensor | None = None
    sampler_N: Tensor | None = None
    old_N: Tensor | None = None
    reference_N: Tensor | None = None
    entropy_N: Tensor | None = None
    kl_N: Tensor | None = None
    more: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A loss that is normalised over the whole global batch, whatever the micro-batches, ranks or accumulation.

    The sum of the losses of all micro-batches of a global batch, on all ranks, is the loss of that batch.
    """

    @property
    def columns(self) -> Sequence[str]:
        """What it needs besides rewards, weights, kinds and pairs: sampler, old, reference, entropy, kl, or a
        credit's own."""

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """The denominators of a global batch, from all its utterances."""

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics). Metrics are sums that are divided by nothing but `totals`, so that adding them over
        micro-batches and ranks gives the batch's figure."""


def per_utterance(value_N: Tensor, utterance_N: Tensor, utterances: int, mean: bool) -> Tensor:
    """Sums (or means) of `value_N` [N] over each utterance, as a tensor [U]; an empty utterance gives 0."""
    total_U = value_N.new_zeros(utterances).index_add(0, utterance_N, value_N)
    if not mean:
        return total_U
    count_U = value_N.new_zeros(utterances).index_add(0, utterance_N, torch.ones_like(value_N))
    return total_U / count_U.clamp(min=1.0)
