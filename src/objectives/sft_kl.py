"""Imitation (SFT) with a penalty that keeps the policy near its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..data.sample import Utterance
from .base import Columns
from .reduce import Form, Scope, Unit, count, divisor, given, over, settle, units


@dataclass(frozen=True, slots=True)
class SFTKL:
    """SFT with a KL penalty towards the reference (SPAG, arXiv:2404.10642: its imitation stage).

    L = 1/K sum_i w_i (-l_i + kl_coef * P_i)   over K units i: log-probs l_i, reference log-probs r_i, weights w_i

    form=corrected sets each of these switches to its first value, form=faithful (the published code) to its second:

    kl     square: P = (l - r)^2 / 2. It is 0 at the reference and positive elsewhere; its gradient is kl_coef (l - r).
           On samples of the model itself its gradient is that of KL(model || reference) (the k2 estimator, Schulman,
           "Approximating KL divergence", 2020); on demonstrations no estimate of that KL exists. pseudo: P = e^l (l -
           r), gradient through both factors: named a KL, but weighted with the model's own probability of a text that
           it did not sample; its gradient is e^l (1 + l - r) kl_coef, at most a few per cent of the SFT term, and it
           pushes *away* from the reference where l - r < -1.
    unit   token: the units are tokens. utterance: they are utterances, l and r being means over an utterance's tokens.
    scope  batch: K counts the whole global batch. micro: each micro-batch is averaged alone and the averages are
           averaged (weighted by utterances), so that the loss depends on how the batch was cut.

    Rewards are ignored. Worked: l = -1.0, r = -1.2, kl_coef = 0.1: pseudo P = 0.073576, L = 1.0073576; square P =
    0.02, L = 1.002. Metrics: nll, kl (the mean of w P).
    """

    kl_coef: float = 0.1
    form: Form = "corrected"
    kl: Literal["square", "pseudo"] | None = None
    unit: Unit | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        settle(self, self.form, kl=("square", "pseudo"), unit=("token", "utterance"), scope=("batch", "micro"))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("old",)

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """Counts of `units` and `utterances`, without padding."""
        return {"units": count(utterances, self.unit), "utterances": count(utterances, "utterance")}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        each = units(logprob_N, given(columns.old_N, "old", "SFTKL"), columns, self.unit)
        ratio_K = each.logprob_K - each.ref_K
        penalty_K = ratio_K.square() / 2 if self.kl == "square" else each.logprob_K.exp() * ratio_K
        below = divisor(totals["units"], each.live_K, self.scope, columns, totals["utterances"])
        nll, kl = (over((each.weight_K * term_K).sum(), below) for term_K in (-each.logprob_K, penalty_K))
        return nll + self.kl_coef * kl, {"nll": nll.detach(), "kl": kl.detach()}
