"""Log-probs that an objective compares with: `old`, of the policy at the start of a round, and `reference`, of a fixed
model.

    pass      one forward pass of the policy itself, before its first step
    recorded  the sampler's log-probs from play, which saves the pass
    a path    the model in that folder

Legend: M supervised tokens of all samples, in order of sample, utterance and token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.packing import Budget, collate, supervised
from ..batches.plan import dealt, once
from ..data.sample import Sample, Utterance
from ..models.hub import opened
from ..models.load import vocabulary
from ..models.snapshot import Snapshot
from ..system import ranks
from ..system.files import InputError, digest
from .device import Hardware, budget, load

PASS, RECORDED = "pass", "recorded"
FIXED = ("start", "base", "previous")
CHECKED = 32  # number of samples whose recorded log-probs are checked with a forward pass
_NUMBERS = attrgetter(*(field.name for field in fields(Utterance) if field.name != "numbers"))


def data_digest(samples: Iterable[Sample]) -> str:
    """A digest of everything that a learner uses of the samples."""
    return digest([_digested(sample) for sample in samples])


def _digested(sample: Sample) -> list[Any]:
    """The digested parts of a sample; a credit's columns only if there are some, to keep older digests valid."""
    own = [dict(each.numbers) for each in sample.utterances]
    more = [own, dict(sample.tokens)] if any(own) or sample.tokens else []
    return [sample.token_ids, sample.group, [_NUMBERS(each) for each in sample.utterances], *more]


def foreign(named: str) -> Snapshot | None:
    """The model at a path as in `model.path`: a folder, a GGUF file, a hub id; None for a keyword.

    InputError or FileNotFoundError if it is absent.
    """
    return None if named in (PASS, RECORDED, *FIXED) else opened(named)


def given(samples: Sequence[Sample], wanted: Sequence[str]) -> dict[str, Tensor]:
    """The columns stored in the samples: the sampler's log-probs and a credit's token columns, [M] each, NaN where a
    sample has none."""
    names = [name for name in wanted if name == "sampler" or any(name in sample.tokens for sample in samples)]
    return {name: torch.cat([_column(sample, name) for sample in samples]) for name in names}


def _column(sample: Sample, name: str) -> Tensor:
    values = sample.logprobs if name == "sampler" else sample.tokens.get(name)
    if values is not None and len(values) != _tokens(sample):
        raise ValueError(
            f"sample {sample.id!r}: column {name!r} has {len(values)} values for {_tokens(sample)} supervised tokens"
        )
    return torch.full((_tokens(sample),), math.nan) if values is None else torch.tensor(values, dtype=torch.float32)


def recorded(
    policy: nn.Module,
    samples: Sequence[Sample],
    budget: Budget,
    device: torch.device,
    *,
    model: str,
    tolerance: float,
) -> Tensor:
    """Log-probs [M] as `forward` gives them, but without its pass: the sampler's, stored in the samples.

    Demonstrations (`Sample.policy` is empty) still get a pass. InputError if a sample was sampled by another version
    than `model`, if its log-probs were not recorded, or if those of `CHECKED` evenly spread samples differ from a
    forward pass of `policy` by more than `tolerance` nats in any token.
    """
    live = [sample for sample in samples if sample.utterances]
    played, given = ([sample for sample in live if bool(sample.policy) is was] for was in (True, False))
    for sample in played:
        _refuse(sample, model)
    chosen = played[:: -(-len(played) // CHECKED) or 1]
    _compare(chosen, forward(policy, chosen, budget, device), tolerance)
    passed_M = forward(policy, given, budget, device) if given else torch.zeros(0)
    passes = iter(passed_M.split([_tokens(sample) for sample in given]))
    return torch.cat(
        [torch.tensor(sample.logprobs, dtype=torch.float32) if sample.policy else next(passes) for sample in live]
    )


def check_vocabulary(model: Snapshot, policy: Snapshot) -> None:
    """InputError unless both models have the same tokens under the same ids."""
    theirs, ours = (vocabulary(each.base or each.path) for each in (model, policy))
    if differing := sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token)):
        raise InputError(
            f"old or reference={model.path}: its tokenizer differs from that of the policy in {len(differing)} tokens "
            f"(such as {', '.join(map(repr, differing[:3]))}), so their log-probs cannot be compared: name a "
            f"model with the same tokenizer"
        )


class Fixed:
    """A frozen model beside a policy of `snapshot`; both must have the same tokens under the same ids."""

    def __init__(self, model: Snapshot, snapshot: Snapshot, hardware: Hardware) -> None:
        check_vocabulary(model, snapshot)
        self.policy = load(model, hardware)
        self.budget = budget(self.policy, hardware)

    def forward(self, samples: Sequence[Sample]) -> Tensor:
        """Log-probs [M] of all supervised tokens, as `forward` gives them."""
        return forward(self.policy, samples, self.budget, self.policy.causal_lm.device)


def forward(policy: nn.Module, samples: Sequence[Sample], budget: Budget, device: torch.device) -> Tensor:
    """Log-probs [M] of all supervised tokens, on the CPU, float32, from one pass over the packed samples, divided among
    the ranks."""
    before = supervised(samples)
    values_M = torch.zeros(before[-1], dtype=torch.float32)
    with torch.no_grad():
        for micro, counts in dealt(once(samples, budget), ranks.rank(), ranks.world(), equal=True):
            batch = collate(samples, micro, before, budget.multiple)
            value_N = policy(batch.to(device)).float().cpu()
            if counts:
                values_M[batch.token_N] = value_N
    return ranks.summed(values_M)


def _refuse(sample: Sample, model: str) -> None:
    if sample.policy != model:
        why = f"was sampled by {sample.policy}, and the round began at {model} (replay and start=base need a pass)"
    elif sample.logprobs is None or len(sample.logprobs) != _tokens(sample):
        why = "has no recorded log-probs (its server gives none)"
    else:
        return
    raise InputError(f"old=recorded: sample {sample.id} {why}; use old=pass")


def _compare(samples: Sequence[Sample], forward_M: Tensor, tolerance: float) -> None:
    for sample, own_M in zip(samples, forward_M.split([_tokens(sample) for sample in samples]), strict=True):
        apart = (torch.tensor(sample.logprobs) - own_M).abs().max().item()
        if not apart <= tolerance:
            raise InputError(
                f"old=recorded: the log-probs recorded in sample {sample.id} differ by {apart:.2g} from a "
                f"forward pass of the "
                f"policy (limit {tolerance:g}): they were sampled by another engine or in another precision; use "
                f"old=pass"
            )


def _tokens(sample: Sample) -> int:
    return sum(each.end - each.start for each in sample.utterances)
