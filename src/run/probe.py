"""Measures this machine's tokens per second on a model of the planned shape with random weights (task=plan)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from ..learners.device import Hardware, autocast, kind, working
from ..learners.memory import GIB, Model
from ..models.adapter import LoRA
from ..system.files import InputError
from .hours import Speed

LENGTH, LEAST_S = 256, 1.0  # tokens of a sequence; seconds of measurement per rate, after a warm-up


def probe(shaped: Any, adapter: LoRA | None, hardware: Hardware, memory_gib: float, batch: int) -> Speed:
    """Measures prefill, decode and training (forward and backward, without the optimiser) on `batch` sequences of 256
    tokens, on one device of the profile. 4-bit weights are probed in bfloat16, and nothing is packed.

    InputError if weights and gradients do not fit into `memory_gib`.
    """
    half = hardware.precision.startswith("bf16")
    whole, trained = Model(shaped, adapter).parameters()
    needed = (2 if half else 4) * (whole + trained)
    if needed > 0.8 * memory_gib * GIB:
        raise InputError(
            f"task.probe=true: weights and gradients of {whole:,} parameters take {needed / GIB:.1f} GiB, a device has "
            f"{memory_gib:g} (hardware.memory_gib). Measure a shard's machine elsewhere and give stated.speed.*"
        )
    device = torch.device(kind(hardware))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("task.probe=true: this machine has no GPU; give stated.speed.*, or hardware=cpu")
    with working(hardware), device:
        model = AutoModelForCausalLM.from_config(shaped, dtype=torch.bfloat16 if half else torch.float32)
        if adapter is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapter.config())
        ids_BT = torch.randint(shaped.get_text_config().vocab_size, (batch, LENGTH))
        with torch.no_grad(), autocast(hardware):
            prefill = _rate(lambda: model(ids_BT, use_cache=True), batch * LENGTH)
            decode = _decode(model, ids_BT)
        train = _rate(lambda: _backward(model, ids_BT, hardware), batch * LENGTH)
    return Speed(prefill, decode, train, f"measured here, {batch} sequences of {LENGTH} tokens, random weights")


def _decode(model: Any, ids_BT: Tensor) -> float:
    """Tokens per second of a step that extends every sequence by one token."""
    cache = DynamicCache()
    model(ids_BT, past_key_values=cache, use_cache=True)

    def step() -> None:
        model(ids_BT[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(LENGTH)

    return _rate(step, len(ids_BT))


def _backward(model: Any, ids_BT: Tensor, hardware: Hardware) -> None:
    with autocast(hardware):
        loss = model(ids_BT, labels=ids_BT, use_cache=False).loss
    loss.backward()
    model.zero_grad(set_to_none=True)


def _rate(work: Callable[[], Any], tokens: int) -> float:
    """Tokens per second of `work`, which handles `tokens` per call."""
    work()
    _wait()
    done, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < LEAST_S:
        work()
        _wait()
        done += tokens
    return done / spent


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
