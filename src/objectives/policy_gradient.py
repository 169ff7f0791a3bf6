"""Policy gradients: advantage times importance ratio per sampled token (clipped, masked or plain), with KL and entropy
terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data.sample import Utterance
from ..system.bounds import Amount, Count
from .base import Columns, per_utterance
from .reduce import count, given, over

FARTHEST = 20.0  # bound of a log-ratio in nats; the exponential of more would overflow


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """The on-policy losses of published systems, as switches of one formula. Minimised per token:

    l: log-prob now; o: log-prob that the ratio is taken `against`; f: log-prob under the model of the KL; A: the
    utterance's advantage
    rho = exp(k), k = l - o, pooled by `ratio`

    kind     ppo         max(-A rho, -A clip(rho, 1 - low, 1 + high)); with `dual` at most -A dual where A < 0
             cispo       -sg[clip(rho, 1 - low, 1 + high)] A l
             importance  -A rho
             mask        -A rho, and 0 where A > 0 and p - q > high or A < 0 and q - p > low; p, q = exp(l), exp(o)
    against  sampler     the log-probs recorded during play: no extra pass, correct for any number of steps
             old         the policy at the start of the round (`old=pass`)
             self        l without gradient, so that rho = 1: for rounds of one step
    ratio    token; utterance, stream: k is its mean over the tokens of a reply (or of all replies of a stream), and the
             gradient each token's own (GSPO)
    low, high   clip range of the ratio below and above 1; null for no bound
    cap      weight of the policy term: min(exp(o - b), cap), with b the sampler's log-prob (against=old)
    reject   [lowest, highest] exp(mean of o - b) of a reply; outside it the reply's policy term is 0 (against=old)
    kl_coef  weight of the KL `towards` the fixed model `reference`, or old (the one that `against` names)
    kl       k1 = l - f, k2 = (l - f)^2 / 2, k3 = exp(f - l) - 1 - (f - l), of the sampled token; full: the exact KL
             over the whole vocabulary at each token, without sampling noise, which also reaches tokens that are no
             longer sampled
    kl_in    loss: added to the token's term. reward: subtracted from A, without gradient (k1)
    entropy_coef   weight of the mean entropy over the vocabulary, an entropy bonus
    per      unit of the mean over the global batch: token; utterance (the mean of each first); length (sums over a
             reply, divided by the constant `length`)
    sft_coef weight of the mixed-in demonstrations' negative log-likelihood per token

    Replies of kind "sft" appear only in their own term. Utterance weights scale their tokens' terms and are
    not normalised. Metrics, as means over sampled tokens: policy, kl and entropy if used, reward (the advantage),
    ratio, clipped (share without a policy gradient), rejected, and mismatch, (l - b)^2 / 2. Before the first step of a
    round mismatch measures the difference between trainer and sampler.

    Sources: PPO (arXiv:1707.06347, eq. 7), dual clip (arXiv:1912.09729), CISPO (arXiv:2506.13585, eq. 4), GSPO
    (arXiv:2507.18071, eq. 13), k1 to k3 (Schulman, "Approximating KL divergence", 2020), length Dr. GRPO
    (arXiv:2503.20783); mask and importance as in the code of prime-rl and tinker-cookbook. On a policy's own samples
    the gradient of k1 in the loss is 0 on average, that of k2 is the KL's to f, that of k3 the reverse one's near f.
    """

    on_policy: ClassVar[bool] = True  # ratios are correct only if play sampled from the policy itself

    kind: Literal["ppo", "cispo", "importance", "mask"] = "ppo"
    against: Literal["sampler", "old", "self"] = "sampler"
    ratio: Literal["token", "utterance", "stream"] = "token"
    low: Amount | None = 0.2
    high: Amount | None = 0.2
    dual: Amount | None = None
    cap: Amount | None = None
    reject: Sequence[float] | None = None
    kl_coef: Amount = 0.0
    kl: Literal["k1", "k2", "k3", "full"] = "k2"
    kl_in: Literal["loss", "reward"] = "loss"
    towards: Literal["reference", "old"] = "reference"
    entropy_coef: Amount = 0.0
    per: Literal["token", "utterance", "length"] = "token"
    length: Count | None = None
    sft_coef: Amount = 0.0

    def __post_init__(self) -> None:
        if self.reject is not None:
            object.__setattr__(self, "reject", tuple(self.reject))
            if len(self.reject) != 2 or not 0 <= self.reject[0] < self.reject[1]:
                raise ValueError(f"reject is {list(self.reject)}, expected [lowest, highest] ratio, such as [0.5, 2.0]")
        if self.against != "old" and (self.cap is not None or self.reject is not None):
            raise ValueError("cap and reject compare old with the sampler: say against=old, or leave them null")
        if (self.kl == "k1") != (self.kl_in == "reward") and self.kl_coef:
            raise ValueError(
                f"kl={self.kl} with kl_in={self.kl_in}: k1 has no gradient of its own on average, so it belongs in the "
                f"reward, and the others in the loss"
            )
        if self.kl == "full" and self.towards == "old":
            raise ValueError("kl=full needs a loaded model to compare with: say towards=reference")
        if self.dual is not None and self.dual <= 1:
            raise ValueError(f"dual is {self.dual}, expected more than 1, such as 3")
        if (self.per == "length") != (self.length is not None):
            raise ValueError(
                "per=length needs length=…, the constant that sums are divided by; no other `per` takes it"
            )

    @property
    def penalised(self) -> bool:
        """Whether a reply without an advantage has a gradient."""
        return bool(self.kl_coef or self.entropy_coef)

    @property
    def columns(self) -> tuple[str, ...]:
        wanted = {
            "old": self.against == "old",
            "reference": self.kl_coef and self.towards == "reference" and self.kl != "full",
            "kl": self.kl_coef and self.kl == "full",
            "entropy": self.entropy_coef,
        }
        return ("sampler", *(name for name, is_wanted in wanted.items() if is_wanted))

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        """Counts of sampled `tokens` and `utterances`, and of `sft` tokens."""
        acts = [each for each in utterances if each.kind != "sft"]
        sfts = [each for each in utterances if each.kind == "sft"]
        return {"tokens": count(acts, "token"), "utterances": count(acts, "utterance"), "sft": count(sfts, "token")}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        each = _Tokens.of(logprob_N, columns)
        old_N = self._old(each, columns)
        k_N = self._pooled((logprob_N - old_N).clamp(-FARTHEST, FARTHEST), each, columns)
        advantage_N, kl_N = self._kl(each, old_N, columns)
        term_N, free_N = self._policy(logprob_N, k_N, old_N, advantage_N)
        weight_N = self._corrected(each, old_N, columns)
        loss_N, shown = weight_N * term_N, {"policy": weight_N * term_N}
        if kl_N is not None:
            loss_N = loss_N + (self.kl_coef * kl_N if self.kl_in == "loss" else 0.0)
            shown["kl"] = kl_N
        if self.entropy_coef:
            assert columns.entropy_N is not None
            loss_N, shown["entropy"] = loss_N - self.entropy_coef * columns.entropy_N, columns.entropy_N
        shown |= {"reward": each.advantage_N, "ratio": k_N.exp(), "clipped": 1 - free_N, "mismatch": each.mismatch_N}
        shown |= {"rejected": (weight_N == 0).to(k_N.dtype)} if self.reject is not None else {}
        metrics = {
            name: over((each.act_N * value_N.detach()).sum(), totals["tokens"]) for name, value_N in shown.items()
        }
        sft = over(-(each.sft_N * logprob_N).sum(), totals["sft"])
        loss = over((self._shares(each, columns) * loss_N).sum(), self._below(totals)) + self.sft_coef * sft
        return loss, metrics | ({"sft": sft.detach()} if self.sft_coef else {})

    # --- ratios ---

    def _old(self, each: _Tokens, columns: Columns) -> Tensor:
        """o of each token [N]; l itself for a token that was not sampled. ValueError if the sampler recorded none."""
        if self.against == "self":
            return each.logprob_N
        name = "sampler" if self.against == "sampler" else "old"
        old_N = given(getattr(columns, f"{name}_N"), name, "PolicyGradient")
        if bool((old_N.isnan() & (each.act_N != 0)).any()):
            raise ValueError("a sampled token has no recorded log-prob (its server gave none): say loss.against=old")
        return torch.where(each.act_N != 0, old_N, each.logprob_N)

    def _pooled(self, k_N: Tensor, each: _Tokens, columns: Columns) -> Tensor:
        """k of each token, or its mean over a reply or a stream with each token's own gradient."""
        if self.ratio == "token":
            return k_N
        group_N = columns.utterance_N
        if self.ratio == "stream":
            if columns.stream_U is None:
                raise ValueError("PolicyGradient with ratio=stream needs to know each utterance's stream")
            group_N = columns.stream_U[group_N]
        sum_U, count_U = (
            per_utterance(value_N, group_N, len(columns.weight_U), mean=False)
            for value_N in (each.act_N * k_N.detach(), each.act_N)
        )
        return (sum_U / count_U.clamp(min=1.0))[group_N] + k_N - k_N.detach()

    def _policy(self, logprob_N: Tensor, k_N: Tensor, old_N: Tensor, advantage_N: Tensor) -> tuple[Tensor, Tensor]:
        """(policy term of each token [N], 1 where it has a gradient [N])."""
        ratio_N = k_N.exp()
        bounded_N = ratio_N.clamp(
            -math.inf if self.low is None else 1 - self.low, math.inf if self.high is None else 1 + self.high
        )
        plain_N = -advantage_N * ratio_N
        match self.kind:
            case "importance":
                return plain_N, torch.ones_like(k_N)
            case "cispo":
                return -bounded_N.detach() * advantage_N * logprob_N, (bounded_N == ratio_N).to(k_N.dtype)
            case "mask":
                gap_N = logprob_N.detach().exp() - old_N.exp()
                left_N = (advantage_N > 0) & (gap_N > (math.inf if self.high is None else self.high))
                left_N |= (advantage_N < 0) & (-gap_N > (math.inf if self.low is None else self.low))
                free_N = (~left_N).to(k_N.dtype)
                return free_N * plain_N, free_N
        clipped_N = -advantage_N * bounded_N
        term_N, free_N = torch.maximum(plain_N, clipped_N), plain_N >= clipped_N
        if self.dual is not None:
            most_N = torch.where(advantage_N < 0, -advantage_N * self.dual, math.inf)
            term_N, free_N = torch.minimum(term_N, most_N), free_N & (plain_N <= most_N)
        return term_N, free_N.to(k_N.dtype)

    def _corrected(self, each: _Tokens, old_N: Tensor, columns: Columns) -> Tensor:
        """The weight of each policy term [N]: the importance ratio of trainer to sampler, capped or rejected."""
        weight_N = torch.ones_like(old_N)
        if self.cap is None and self.reject is None:
            return weight_N
        apart_N = torch.where(each.act_N != 0, old_N - given(columns.sampler_N, "sampler", "PolicyGradient"), 0.0)
        if self.cap is not None:
            weight_N = apart_N.exp().clamp(max=self.cap)
        if self.reject is not None:
            mean_U = per_utterance(apart_N, columns.utterance_N, len(columns.weight_U), mean=True).exp()
            fits_U = (mean_U >= self.reject[0]) & (mean_U <= self.reject[1])
            weight_N = weight_N * fits_U[columns.utterance_N]
        return weight_N

    # --- penalties and means ---

    def _kl(self, each: _Tokens, old_N: Tensor, columns: Columns) -> tuple[Tensor, Tensor | None]:
        """(advantage of each token [N], KL estimate of each token [N] or None)."""
        if not self.kl_coef:
            return each.advantage_N, None
        if self.kl == "full":
            assert columns.kl_N is not None
            return each.advantage_N, columns.kl_N
        fixed_N = old_N if self.towards == "old" else given(columns.reference_N, "reference", "PolicyGradient")
        apart_N = each.live_N - fixed_N
        if self.kl_in == "reward":
            return each.advantage_N - self.kl_coef * apart_N.detach(), apart_N.detach()
        kl_N = apart_N.square() / 2 if self.kl == "k2" else (-apart_N).clamp(max=FARTHEST).exp() - 1 + apart_N
        return each.advantage_N, kl_N

    def _shares(self, each: _Tokens, columns: Columns) -> Tensor:
        """The weight of each token's term in the sum."""
        weight_N = each.act_N * each.weight_N
        if self.per != "utterance":
            return weight_N
        count_U = per_utterance(torch.ones_like(weight_N), columns.utterance_N, len(columns.weight_U), mean=False)
        return weight_N / count_U[columns.utterance_N]

    def _below(self, totals: Mapping[str, float]) -> float:
        return totals["tokens"] if self.per == "token" else totals["utterances"] * (self.length or 1)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A micro-batch as tokens [N]."""

    live_N: Tensor  # log-probs with gradient
    logprob_N: Tensor  # without
    act_N: Tensor  # 1 for a sampled token that counts
    sft_N: Tensor  # the weight of a token that was not sampled, else 0
    weight_N: Tensor
    advantage_N: Tensor
    mismatch_N: Tensor  # (l - b)^2 / 2, 0 where b is unknown

    @staticmethod
    def of(logprob_N: Tensor, columns: Columns) -> _Tokens:
        weight_N, advantage_N = (
            value_U.to(logprob_N.dtype)[columns.utterance_N] for value_U in (columns.weight_U, columns.reward_U)
        )
        is_sft_N, fixed_N = columns.sft_U[columns.utterance_N], logprob_N.detach()
        act_N = ((weight_N != 0) & ~is_sft_N).to(logprob_N.dtype)
        apart_N = fixed_N - given(columns.sampler_N, "sampler", "PolicyGradient")
        return _Tokens(
            logprob_N, fixed_N, act_N, weight_N * is_sft_N, weight_N, advantage_N,
            (apart_N.square() / 2).nan_to_num(nan=0.0),
        )  # fmt: skip
