"""How likely a snapshot finds given samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from ..data.packing import collate, supervised
from ..data.plan import once
from ..data.sample import Sample
from ..models.backend import Snapshot
from .lightning import Hardware, budget, load


def mean_logprob(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> float:
    """The mean log-prob in nats of a supervised token of `samples` under `snapshot`; ValueError where there is none."""
    sums = logprobs(samples, snapshot, hardware)
    if not (tokens := supervised(samples)[-1]):
        raise ValueError("none of the samples has a supervised token")
    return sum(sums) / tokens


def logprobs(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> list[float]:
    """The summed log-prob in nats of the supervised tokens of each sample under `snapshot`; 0 where there is none."""
    policy = load(snapshot, hardware)
    before = supervised(samples)
    logprob_M = torch.zeros(before[-1], dtype=torch.float64)
    with torch.no_grad():
        for micro in once(samples, budget(policy, hardware)):
            batch = collate(samples, micro, before)
            logprob_M[batch.token_N] = policy(batch.to(policy.causal_lm.device)).double().cpu()
    return [logprob_M[first:last].sum().item() for first, last in pairwise(before)]
