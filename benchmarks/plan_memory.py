"""The memory that task=plan predicts against what the learner takes, on a CPU, for small models of several shapes.

    python benchmarks/plan_memory.py

Each case trains two optimiser steps through the real learner. Measured is the second: the bytes of all tensors that are
alive before it, and on top of them the most that PyTorch's CPU allocator has given out during it (its profiler tells
every allocation, those inside of operators included). Predicted is `parley.learners.memory.predict` on the step's
micro-batches, from the model's config alone. Writes docs/results/plan_memory.json; the last line is JSON.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from dialogues import Dialogues, Profile, Shape
from parley.batches.packing import collate, supervised
from parley.batches.plan import plan
from parley.data.sample import Sample
from parley.games.base import Message
from parley.learners.lightning import LightningLearner
from parley.learners.memory import PARTS, Memory, Model, predict
from parley.learners.optim import AdamW, Muon, OptimizerConfig, RMSProp
from parley.models import snapshot as snapshots
from parley.models.adapter import LoRA, QLoRA
from parley.models.snapshot import Snapshot
from parley.models.tiny import word_tokenizer
from parley.objectives.filtered_bc import FilteredBC
from results import record
from torch import Tensor
from torch._C._profiler import _EventType
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

BASE = Shape(width=128, layers=3, heads=4, kv_heads=2, mlp=256, vocab=1000, tie=True)
DATA = Dialogues(matches=6, turns=3, rules=120, vocab=1000)


@dataclass(frozen=True)
class Case:
    """A model and a way to train it."""

    shape: Shape = BASE
    hardware: Profile = field(default_factory=lambda: Profile(micro_tokens=1024, row_tokens=512, head_chunk=256))
    adapter: LoRA | None = None
    optimizer: OptimizerConfig = AdamW(1e-4)
    dropout: float = 0.0
    average: float = 0.0
    data: Dialogues = DATA


def cases() -> dict[str, Case]:
    """What is measured, by name."""
    base = Case()
    wide = replace(base.hardware, micro_tokens=4096, row_tokens=2048, head_chunk=4096)
    few = replace(base.hardware, micro_tokens=256, row_tokens=256)
    spared = replace(wide, activation_checkpointing=True)
    words = replace(BASE, vocab=8000, tie=False)
    return {
        "base": base,
        "few tokens": replace(base, hardware=few),
        "many tokens": replace(base, hardware=wide),
        "many tokens, checkpointed": replace(base, hardware=spared),
        "wide": replace(base, shape=replace(BASE, width=256, mlp=1024)),
        "deep, checkpointed": replace(base, shape=replace(BASE, layers=8), hardware=spared),
        "many words": replace(base, shape=words, data=replace(DATA, vocab=8000)),
        "many words, small chunks": replace(base, shape=words, hardware=replace(base.hardware, head_chunk=32)),
        "RMSProp": replace(base, optimizer=RMSProp(1e-4)),
        "Muon": replace(base, optimizer=Muon()),
        "dropout, averages": replace(base, dropout=0.1, average=0.9, hardware=wide),
        "bf16-mixed": replace(base, hardware=replace(wide, precision="bf16-mixed")),
        "lora": replace(base, adapter=LoRA(r=8), hardware=wide),
        "lora, checkpointed": replace(base, adapter=LoRA(r=8), hardware=spared),
        "qlora": replace(base, adapter=QLoRA(r=8), hardware=wide),
        "qlora, bf16-mixed": replace(base, adapter=QLoRA(r=8), hardware=replace(spared, precision="bf16-mixed")),
    }  # fmt: skip


def compare(case: Case, folder: Path) -> tuple[Memory, int]:
    """(predicted, measured bytes) at the peak of the second optimiser step."""
    start = _start(case.shape, folder / "model")
    if case.adapter is not None:
        start = case.adapter.create(start, folder / "adapter", seed=0)
    samples = case.data.samples()
    learner = LightningLearner(
        FilteredBC(),
        case.hardware,
        case.optimizer,
        epochs=2,
        batch_utterances=10**6,
        dropout=case.dropout,
        average=case.average,
    )
    return predicted(case, learner, samples), measured(learner, samples, start, folder / "out")


def predicted(case: Case, learner: LightningLearner, samples: list[Sample]) -> Memory:
    model = Model(case.shape.config(), case.adapter)
    steps = plan(
        samples,
        model.budget(learner.hardware, learner.dropout),
        seed=0,
        epochs=2,
        batch_utterances=learner.batch_utterances,
    )
    before = supervised(samples)
    batches = [collate(samples, micro, before, steps.budget.multiple) for micro in steps[1].micros]
    return predict(
        model, learner.optimizer, learner.hardware, batches, dropout=learner.dropout, average=learner.average
    )


def measured(learner: LightningLearner, samples: list[Sample], start: Snapshot, folder: Path) -> int:
    watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    before: list[int] = []

    def ended(row: Any) -> None:
        if row["step"] == 0:
            before.append(_alive())
            watch.start()
        else:
            watch.stop()

    learner.learn(samples, start, folder, seed=0, name="next", progress=ended)
    return before[0] + max(
        accumulate(size for _, size in sorted(_allocations(watch.profiler.kineto_results.experimental_event_tree())))
    )


def _alive() -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor) and not isinstance(each, FakeTensor)]
    storages = [each.untyped_storage() for each in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _allocations(events: Any) -> Iterator[tuple[int, int]]:
    """(time, bytes) of every allocation; a release has negative bytes."""
    for event in events:
        if event.typed[0] == _EventType.Allocation:
            yield event.start_time_ns, event.typed[1].alloc_size
        yield from _allocations(event.children)


def _start(shape: Shape, folder: Path) -> Snapshot:
    tokenizer = word_tokenizer([[Message("user", " ".join(f"w{n}" for n in range(shape.vocab - 7)))]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return snapshots.save(LlamaForCausalLM(shape.config(1024)), tokenizer, folder, "tiny")


def main() -> dict[str, Any]:
    figures = {}
    for name, case in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            memory, real = compare(case, Path(folder))
        figures[name] = {
            "measured_mib": round(real / 2**20, 2), "predicted_mib": round(memory.total / 2**20, 2),
            "ratio": round(memory.total / real, 3), "moment": memory.moment,
            "parts_mib": {part: round(getattr(memory, part) / 2**20, 2) for part in PARTS},
        }  # fmt: skip
        print(f"{name:28s} {figures[name]}", flush=True)
    return figures


if __name__ == "__main__":
    found = main()
    record("plan_memory", {"cases": found})
    print(json.dumps({"largest_error": max(abs(row["ratio"] - 1) for row in found.values())}))
