"""Pairs: what is real against what the policy generated (SPIN), or what is chosen against what is rejected (DPO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..data.sample import Utterance
from .base import Columns
from .reduce import Form, Scope, divisor, given, over, settle


@dataclass(frozen=True, slots=True)
class Spin:
    """SPIN (arXiv:2401.01335, its L_SPIN) and, on given pairs, DPO (arXiv:2305.18290, eq. 7): the same loss.

    h = [l(real) - r(real)] - [l(generated) - r(generated)]    l, r: log-probs of model and reference, *summed* over a
    side
    kind=sigmoid: -log sigmoid(beta h)      kind=hinge: max(0, 1 - beta h)      L: the mean over pairs

    reference_free leaves r out. Every pair counts alike: of an utterance's weight only 0 (padding) has a meaning.

    form=corrected sets scope=batch, the mean over all pairs of the global batch; form=faithful (the published code)
    sets scope=micro: each micro-batch is averaged alone and the averages are averaged (weighted by utterances). Sums
    stand in the paper, in the code and in both forms here. That code's collation is not part of a loss: it hides
    separators inside the texts from attention and ends texts twice; parley trains on the ids as they were sampled.

    Worked: h = 0 (model = reference): sigmoid ln 2 = 0.6931, hinge 1.0, and accuracy 0, because equal rewards do not
    count. beta = 0.1, h = 2: sigmoid 0.598139, hinge 0.8. Metrics: means over pairs of rewards/real, rewards/generated
    (beta (l - r)), rewards/margins, rewards/accuracies (real > generated), logps/real, logps/generated.
    """

    beta: float = 0.1
    kind: Literal["sigmoid", "hinge"] = "sigmoid"
    reference_free: bool = False
    form: Form = "corrected"
    scope: Scope | None = None

    def __post_init__(self) -> None:
        settle(self, self.form, scope=("batch", "micro"))
        if self.kind not in ("sigmoid", "hinge"):
            raise ValueError(f"kind is {self.kind!r}, expected sigmoid or hinge")

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.reference_free else ("old",)

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """`pairs`, and `utterances` that count. ValueError for a pair that has only one side."""
        sides = {
            side: {each.pair for each in utterances if each.pair is not None and each.weight and each.side == side}
            for side in (1, -1)
        }
        if sides[1] != sides[-1]:
            raise ValueError(
                f"{len(sides[1] ^ sides[-1])} pairs have one side only: both sides of a pair need one sample group"
            )
        return {"pairs": float(len(sides[1])), "utterances": float(sum(each.weight != 0 for each in utterances))}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ref_N = torch.zeros_like(logprob_N) if self.reference_free else given(columns.old_N, "old", "Spin")
        live_P, real_P, generated_P = self._sides(logprob_N, columns)
        _, ref_real_P, ref_generated_P = self._sides(ref_N, columns)
        real, generated = self.beta * (real_P - ref_real_P), self.beta * (generated_P - ref_generated_P)
        margin_P = real - generated
        loss_P = -logsigmoid(margin_P) if self.kind == "sigmoid" else (1 - margin_P).clamp(min=0)
        loss = over(
            (live_P * loss_P).sum(), divisor(totals["pairs"], live_P, self.scope, columns, totals["utterances"])
        )
        shown = {
            "rewards/real": real,
            "rewards/generated": generated,
            "rewards/margins": margin_P,
            "rewards/accuracies": (real > generated).to(real.dtype),
            "logps/real": real_P,
            "logps/generated": generated_P,
        }
        return loss, {name: over((live_P * value_P).sum().detach(), totals["pairs"]) for name, value_P in shown.items()}

    def _sides(self, logprob_N: Tensor, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """(live_P, real_P, generated_P): which pairs [P <= U] stand in the micro-batch, and the summed log-probs of
        their sides."""
        pair_U = columns.pair_U
        real_U, generated_U = ((columns.side_U == side) & (columns.weight_U != 0) & (pair_U >= 0) for side in (1, -1))
        size = len(pair_U)
        live_P = logprob_N.new_zeros(size).index_fill(0, pair_U[real_U], 1.0)
        sums = []
        for side_U in (real_U, generated_U):
            chosen_N = side_U[columns.utterance_N]
            sums.append(
                logprob_N.new_zeros(size).index_add(0, pair_U[columns.utterance_N][chosen_N], logprob_N[chosen_N])
            )
        return live_P, sums[0], sums[1]
