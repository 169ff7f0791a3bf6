"""An objective of one's own: identity preference optimisation (IPO; Azar et al. 2023, arXiv:2310.12036, eq. 17)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parley import Columns, Utterance
from parley.objectives.base import per_utterance
from torch import Tensor


@dataclass(frozen=True)
class IPO:
    """L = mean over pairs of (h - 1 / (2 tau))^2, where h is the log-ratio to the old policy, chosen less rejected.

    The margin is pulled to 1 / (2 tau) nats and no further, where SPIN's and DPO's sigmoid goes on for ever.
    """

    tau: float = 0.1
    columns: Sequence[str] = ("old",)

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        return {"pairs": float(len({each.pair for each in utterances if each.weight and each.pair is not None}))}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert columns.old_N is not None  # it is named in `columns`
        size, pair_U = len(columns.weight_U), columns.pair_U
        gain_U = per_utterance(logprob_N - columns.old_N.detach(), columns.utterance_N, size, mean=False)
        live_U = (columns.weight_U != 0) & (pair_U >= 0)
        margin_P = gain_U.new_zeros(size).index_add(0, pair_U[live_U], (columns.side_U * gain_U)[live_U])
        live_P = gain_U.new_zeros(size).index_fill(0, pair_U[live_U], 1.0)
        pairs = totals["pairs"] or 1.0  # of the whole global batch, so that micro-batches add up
        loss = (live_P * (margin_P - 1 / (2 * self.tau)).square()).sum() / pairs
        return loss, {"margin": (live_P * margin_P).sum().detach() / pairs}
