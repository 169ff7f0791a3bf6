"""The interface of objectives (losses), and the columns of per-token inputs that a loss reads.

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
    """The inputs of a loss beside the log-probs of a micro-batch: per token [N], and per utterance [U].

    utterance_N  long: the utterance of each token
    reward_U     float: reward or advantage; weight_U: float, 0 for padding
    sft_U        bool: kind == "sft"
    pair_U       long: index of the pair within the micro-batch, -1 without one
    side_U       float: +1 real or chosen, -1 generated or rejected, 0 without a pair
    stream_U     long: the stream of each utterance, counted within the micro-batch

    Only those that the objective names in `columns`; no gradient flows except through entropy and kl:

    sampler_N    log-probs that the sampler recorded, NaN where it recorded none
    old_N        log-probs under the policy at the start of the round
    reference_N  log-probs under a fixed model
    entropy_N    entropy in nats of the policy's distribution at the token, with gradient
    kl_N         KL divergence in nats of that distribution to a fixed model's, with gradient
    more         columns that a credit defines: `Utterance.numbers` [U] and `Sample.tokens` [N], by name, NaN where
                 missing
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
    """A loss that is normalised over the whole global batch, independent of micro-batches, ranks and accumulation.

    The losses of all micro-batches on all ranks add up to the loss of the global batch.
    """

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns it needs besides rewards, weights, kinds and pairs: sampler, old, reference, entropy,
        kl, or one that a credit defines."""

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """The denominators of a global batch, from all its utterances."""

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (scalar loss, metrics). `logprob_N` [N] in nats takes gradients. Metrics are sums divided only by
        `totals`, so that adding them over micro-batches and ranks gives the batch's figure."""


def per_utterance(value_N: Tensor, utterance_N: Tensor, utterances: int, mean: bool) -> Tensor:
    """Sums (or means) of `value_N` [N] over each utterance, as a tensor [U]; an empty utterance gives 0."""
    total_U = value_N.new_zeros(utterances).index_add(0, utterance_N, value_N)
    if not mean:
        return total_U
    count_U = value_N.new_zeros(utterances).index_add(0, utterance_N, torch.ones_like(value_N))
    return total_U / count_U.clamp(min=1.0)
