"""The reference pass: log-probs of the policy at the start of an iteration, made by the policy itself before it moves.

Legend: M supervised tokens of all samples, in order of sample, utterance and token.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.packing import Budget, collate, supervised
from ..data.plan import once
from ..data.sample import Sample, Utterance
from ..files import digest

NAME = "logprob"
_NUMBERS = attrgetter(*(field.name for field in fields(Utterance)))


def data_digest(samples: Iterable[Sample]) -> str:
    """Stands for the samples with everything that a learner uses of them."""
    return digest([[sample.token_ids, sample.group, [_NUMBERS(each) for each in sample.utterances]] for sample in samples])


def reference(policy: nn.Module, samples: Sequence[Sample], budget: Budget, file: Path, *, model: str, device: torch.device) -> Tensor:
    """Log-probs [M] of all supervised tokens under `policy`, on the CPU, float32, without gradient.

    They are kept in `file` with the digests of the model (its version) and of the samples; where these match, nothing
    is computed.
    """
    digests = {"model": model, "data": data_digest(samples)}
    if (kept := _read(file, digests)) is not None:
        return kept
    before = supervised(samples)
    values_M = torch.zeros(before[-1])
    with torch.no_grad():
        for micro in once(samples, budget):
            batch = collate(samples, micro, before)
            values_M[batch.token_N] = policy(batch.to(device)).cpu()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    save_file({NAME: values_M}, draft, metadata=digests)
    os.replace(draft, file)
    return values_M


def _read(file: Path, digests: dict[str, str]) -> Tensor | None:
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor(NAME) if stored.metadata() == digests else None
