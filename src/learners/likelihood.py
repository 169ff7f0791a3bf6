"""How likely a snapshot finds given samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data.packing import collate, supervised
from ..data.plan import once
from ..data.sample import Sample
from ..models.backend import Snapshot
from .lightning import Hardware, budget, load


def mean_logprob(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> float:
    """The mean log-prob in nats of a supervised token of `samples` under `snapshot`; ValueError where there is none."""
    policy = load(snapshot, hardware)
    before = supervised(samples)
    if not before[-1]:
        raise ValueError("none of the samples has a supervised token")
    total = 0.0
    with torch.no_grad():
        for micro in once(samples, budget(policy, hardware)):
            total += policy(collate(samples, micro, before).to(policy.causal_lm.device)).sum().item()
    return total / before[-1]
