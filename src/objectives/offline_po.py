"""Offline policy optimisation: a clipped ratio to the policy that played, plus an SFT term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..data.sample import Utterance
from .base import Columns
from .reduce import Form, Scope, Unit, count, divisor, given, over, settle, units


@dataclass(frozen=True, slots=True)
class OfflinePO:
    """SPAG's offline policy optimisation (arXiv:2404.10642: its self-play stage), in sampled units i.

    k_i = l_i - r_i            log-prob minus that of the reference, the policy that played
    rho_i = exp(k_i)           A_i = R_i - kl_coef * k_i
    P_i = -min(A_i rho_i, A_i clip(rho_i, 1 - clip, 1 + clip))
    L = 1/K sum_(i not sft) w_i P_i  +  sft_coef * 1/S sum_(i sft) w_i (-l_i)    with K sampled and S sft units

    form=corrected sets each of these switches to its first value, form=faithful (the published code) to its second:

    kl_grad  detached: A_i is a constant; dP/dk = -rho (R - kl_coef k) inside the clip. coupled: the gradient also
             passes through the k in A_i, dP/dk = -rho (R - kl_coef - kl_coef k). The extra term is zero only on
             average over *all* the policy's samples; on winners' alone it pushes every utterance with R < kl_coef down.
    unit     token: the units are tokens, each with its own ratio, clip and k, and its utterance's R. utterance: they
             are utterances, l and r are *means* over an utterance's tokens, so rho is a geometric mean of token ratios.
             That is no importance weight, and a token of a long utterance counts less.
    scope    batch: K and S count the whole global batch. micro: each micro-batch is divided by its own counts (an
             absent kind adds 0), and the results are averaged, weighted by utterances. With micro-batches of 2, as
             published, an utterance that is the only one of its kind weighs twice as much as one of two.

    Weights scale their utterance and are not normalised, so that a role's weight means the same in every batch.
    Worked (utterance, kl_coef .2, clip .2): R = .5, k = .1: rho 1.10517, A .48, P -.53048; R = .5, k = .3: A .44,
    clipped, P -.52800; R = .05, k = .4: A -.03, P .044755 (not clipped). dP/dk at k = 0, R = .5: coupled -.30, detached
    -.50. Metrics: policy and sft (the two means), and over the sampled units kl (mean of rho - 1 - k, never negative,
    which estimates KL(reference || model)), ratio, clipped (share of units without gradient) and reward.
    """

    kl_coef: float = 0.2
    clip: float = 0.2
    sft_coef: float = 0.5
    form: Form = "corrected"
    kl_grad: Literal["detached", "coupled"] | None = None
    unit: Unit | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        settle(self, self.form, kl_grad=("detached", "coupled"), unit=("token", "utterance"), scope=("batch", "micro"))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("old",)

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """Counts of `act` and `sft` units and of `utterances`, without padding."""
        unit, sft = self.unit, [each for each in utterances if each.kind == "sft"]
        act = [each for each in utterances if each.kind != "sft"]
        return {"act": count(act, unit), "sft": count(sft, unit), "utterances": count(utterances, "utterance")}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        each = units(logprob_N, given(columns.old_N, "old", "OfflinePO"), columns, self.unit)
        sft_K = each.live_K * each.sft_K
        act_K = each.live_K - sft_K
        k_K = each.logprob_K - each.ref_K
        surrogate_K, free_K = self.surrogate(k_K, each.reward_K)
        acts, sfts = (
            divisor(totals[kind], mask_K, self.scope, columns, totals["utterances"])
            for kind, mask_K in (("act", act_K), ("sft", sft_K))
        )
        policy = over((act_K * each.weight_K * surrogate_K).sum(), acts)
        sft = over(-(sft_K * each.weight_K * each.logprob_K).sum(), sfts)
        with torch.no_grad():
            shown = {"kl": k_K.exp() - 1 - k_K, "ratio": k_K.exp(), "clipped": 1 - free_K, "reward": each.reward_K}
            metrics = {name: over((act_K * value_K).sum(), totals["act"]) for name, value_K in shown.items()}
        return policy + self.sft_coef * sft, {"policy": policy.detach(), "sft": sft.detach(), **metrics}

    def surrogate(self, k_K: Tensor, reward_K: Tensor) -> tuple[Tensor, Tensor]:
        """(P_K, free_K): the clipped surrogate of each unit, and 1 where the clip leaves the ratio's gradient (else
        0)."""
        ratio_K = k_K.exp()
        advantage_K = reward_K - self.kl_coef * (k_K if self.kl_grad == "coupled" else k_K.detach())
        plain_K, clipped_K = advantage_K * ratio_K, advantage_K * ratio_K.clamp(1 - self.clip, 1 + self.clip)
        return -torch.minimum(plain_K, clipped_K), (plain_K <= clipped_K).to(k_K.dtype)
