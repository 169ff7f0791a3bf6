"""How likely a snapshot finds given samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data.packing import Budget, collate, supervised
from ..data.plan import once
from ..data.sample import Sample
from ..models.backend import Snapshot
from ..models.load import load_policy
from ..models.policy import Policy, check_packable
from .lightning import Hardware


def mean_logprob(samples: Sequence[Sample], snapshot: Snapshot, hardware: Hardware) -> float:
    """The mean log-prob in nats of a supervised token of `samples` under `snapshot`; ValueError where there is none."""
    device = "cuda" if hardware.accelerator == "gpu" else "cpu"
    policy = Policy(load_policy(snapshot, "float32", device), hardware.head_chunk)
    check_packable(policy)
    before = supervised(samples)
    if not before[-1]:
        raise ValueError("none of the samples has a supervised token")
    total = 0.0
    with torch.no_grad():
        for micro in once(samples, Budget(hardware.row_tokens, hardware.micro_tokens, policy.packable)):
            total += policy(collate(samples, micro, before).to(device)).sum().item()
    return total / before[-1]
