"""Log-likelihood of samples under a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..batches.packing import supervised
from ..data.sample import Sample
from ..models.snapshot import Snapshot
from .device import Hardware, budget, load
from .reference import forward


def mean_logprob(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> float:
    """The mean log-prob in nats of a supervised token of `samples` under `snapshot`; ValueError if there is none."""
    sums = logprobs(samples, snapshot, hardware)
    if not (tokens := supervised(samples)[-1]):
        raise ValueError("none of the samples has a supervised token")
    return sum(sums) / tokens


def logprobs(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> list[float]:
    """The summed log-prob in nats of the supervised tokens of each sample under `snapshot`; 0 without any.

    Every rank calls it, and computes its share.
    """
    policy = load(snapshot, hardware)
    logprob_M = forward(policy, samples, budget(policy, hardware), policy.causal_lm.device).double()
    return [logprob_M[first:last].sum().item() for first, last in pairwise(supervised(samples))]
