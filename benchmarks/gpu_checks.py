"""What gpu.py runs on a device: each check returns its figures; what is wrong stands under `faults`.

On a CPU (`tiny`) every path is walked on small shapes and no figure means anything.

Legend: M supervised tokens of all samples, K tokens.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from comparator import Comparator, all_logprobs
from dialogues import Dialogues, Profile, Shape
from gpu_engines import ENGINES
from parley.batches.packing import Batch, Budget, collate, pack, supervised
from parley.batches.plan import Plan
from parley.data.sample import Sample, Utterance
from parley.games.base import Message
from parley.learners.checkpoint import Saving
from parley.learners.lightning import LightningLearner
from parley.learners.memory import GIB, Model, predict
from parley.learners.optim import AdamW
from parley.learners.session import Session
from parley.learners.training import Training
from parley.models import snapshot as snapshots
from parley.models.adapter import LoRA, QLoRA
from parley.models.attention import PATHS
from parley.models.policy import Policy, check_packable
from parley.models.sharding import shard
from parley.models.snapshot import Snapshot
from parley.models.tiny import word_tokenizer
from parley.objectives.offline_po import OfflinePO
from parley.play.player import Prompt, Sampling
from torch import Tensor, distributed, nn
from transformers import LlamaForCausalLM

Figures = dict[str, Any]
# Dense bfloat16 TFLOP/s of the vendors' data sheets; the first name that occurs in the device's is taken.
PEAK_TFLOPS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A10G": 70, "A10": 125,
    "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
WARM, TIMED = 2, 4  # optimiser steps: the first compile kernels
ONE_B = Shape(2048, 16, 32, 8, 8192, 128256, tie=True)  # Llama 3.2 1B
SEVEN_B = Shape(4096, 32, 32, 32, 11008, 32000)  # Llama 2 7B
MIDDLE = Shape(1024, 8, 16, 8, 2816, 32000)
TINY = Shape(64, 2, 4, 2, 128, 512)
SERVED = replace(TINY, width=128, heads=2, kv_heads=2)  # vLLM's kernels have no heads of 16
LITTLE = Dialogues(3, 3, rules=20, reply=(3, 8), instruction=4, vocab=TINY.vocab)


@dataclass(frozen=True)
class Bench:
    """Where checks run. `sparse` says whether the block-sparse kernel is to be used."""

    device: str
    sparse: bool

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    @property
    def gib(self) -> float:
        """Memory of the device."""
        return 0.0 if self.tiny else torch.cuda.get_device_properties(0).total_memory / 2**30

    def shape(self, real: Shape) -> Shape:
        return TINY if self.tiny else real

    def profile(self, **changes: Any) -> Profile:
        if self.tiny:
            return Profile(precision="bf16-mixed", micro_tokens=256, row_tokens=256, head_chunk=64, **changes)
        micro = 16384 if self.gib > 70 else 4096
        return Profile(
            "gpu", precision="bf16-mixed", threads=4, micro_tokens=micro, row_tokens=8192, head_chunk=2048, **changes
        )

    def build(self, shape: Shape, dtype: torch.dtype, spread: float = 0.02) -> LlamaForCausalLM:
        """A Llama with random weights, made on the device."""
        torch.manual_seed(0)
        config = shape.config()
        config.initializer_range = spread
        with torch.device(self.device):
            return LlamaForCausalLM._from_config(config, dtype=dtype).train()

    def policy(self, model: nn.Module, head_chunk: int) -> Policy:
        policy = Policy(model, head_chunk).train()
        if self.sparse:
            policy.use_block_sparse_attention()
        elif self.tiny:
            policy.use_path_attention()
        check_packable(policy)
        return policy

    def sync(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize()

    def peak_gib(self) -> float | None:
        """Most memory that tensors took since the last call; nothing on a CPU."""
        if self.tiny:
            return None
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(most, 2)


def device(bench: Bench) -> Figures:
    """What the device is and what it does at best; which libraries are there."""
    size = 128 if bench.tiny else 8192
    one = torch.randn(size, size, device=bench.device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(8):
        bench.sync()
        started = time.perf_counter()
        one @ one
        bench.sync()
        seconds.append(time.perf_counter() - started)
    name = "cpu" if bench.tiny else torch.cuda.get_device_name(0)
    return {
        "name": name,
        "gib": round(bench.gib, 1),
        "tflops_data_sheet": _peak(name),
        "tflops_matmul": round(2 * size**3 / min(seconds) / 1e12, 1),
        "versions": {
            each: _version(each) for each in ("torch", "transformers", "pytorch_lightning", "peft", "bitsandbytes")
        },
    }


def _peak(name: str) -> int | None:
    return next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def _version(name: str) -> str:
    try:
        return str(importlib.import_module(name).__version__)
    except ImportError:
        return "missing"


# --- the same numbers ---------------------------------------------------------------------------------------------


def packed(bench: Bench) -> Figures:
    """Packed rows against the model's own logits, one row per utterance: log-probs and gradients.

    In float32 they agree; in bfloat16 a packed row is about as far from float32 as a plain one. A mask that leaks
    shows.
    """
    shape = bench.shape(MIDDLE)
    samples = (LITTLE if bench.tiny else Dialogues(4, 3, vocab=shape.vocab)).samples()
    model = bench.build(
        shape, torch.float32, spread=1.5 * shape.width**-0.5
    )  # so that a token in the wrong place shows
    truth = _plain(bench, model, samples, half=False)
    plain = _apart(_plain(bench, model, samples, half=True), truth)
    figures: Figures = {"plain_bf16": plain, "faults": []}
    for attention in ["sdpa", PATHS, "flex_attention"]:
        learning = not (bench.tiny and attention == "flex_attention")  # which has no backward on a CPU
        model.set_attn_implementation(attention)
        exact, half = (_apart(_packed(bench, model, samples, half, learning), truth) for half in (False, True))
        leaking = _apart(_packed(bench, model, samples, False, False, leak=True), truth)
        figures[attention] = {"float32": exact, "bf16": half, "float32_leaking": leaking}
        for dtype, found in (("float32", exact), ("bf16", half)):
            limits = {key: 2e-3 if dtype == "float32" else 1.5 * plain[key] + 1e-3 for key in found}
            over = [f"{key} {found[key]:.2g}, limit {limits[key]:.2g}" for key in found if found[key] > limits[key]]
            figures["faults"] += [f"{attention}, {dtype}: {text}" for text in over]
        if leaking["logprob"] < 10 * exact["logprob"]:
            figures["faults"].append(f"{attention}: a leaking mask does not show")
    return figures


Values = tuple[Tensor, Tensor | None]  # log-probs [M], gradients of their mean in one row


def _plain(bench: Bench, model: nn.Module, samples: Sequence[Sample], half: bool) -> Values:
    found = []
    with torch.autocast(bench.device, torch.bfloat16, enabled=half):
        for sample in samples:
            (each,), ids_1T = sample.utterances, torch.tensor([sample.token_ids], device=bench.device)
            found.append(all_logprobs(model, ids_1T)[0, each.start - 1 :])
    return _values(model, torch.cat(found))


def _packed(
    bench: Bench, model: nn.Module, samples: Sequence[Sample], half: bool, learning: bool, leak: bool = False
) -> Values:
    policy, before = Policy(model, head_chunk=64), supervised(samples)
    values_M = torch.zeros(before[-1], device=bench.device)
    units = [range(at, at + 3) for at in range(0, len(samples), 3)]
    with torch.autocast(bench.device, torch.bfloat16, enabled=half), torch.set_grad_enabled(learning):
        for micro in pack(samples, units, Budget(10**6, 10**6)):
            batch = collate(samples, micro, before, multiple=128).to(bench.device)
            if leak:
                batch.last_BT.fill_(batch.last_BT.shape[1] - 1)
            values_M = values_M.index_put((batch.token_N,), policy(batch))
    return _values(model, values_M)


def _values(model: nn.Module, values_M: Tensor) -> Values:
    if not values_M.requires_grad:
        return values_M, None
    model.zero_grad()
    values_M.mean().backward()
    grads = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    return values_M.detach(), grads


def _apart(values: Values, truth: Values) -> dict[str, float]:
    """Mean difference of log-probs, and of gradients relative to their norm."""
    figures = {"logprob": (values[0] - truth[0]).abs().mean().item()}
    if values[1] is not None and truth[1] is not None:
        figures["gradient"] = ((values[1] - truth[1]).norm() / truth[1].norm()).item()
    return {key: float(f"{value:.3g}") for key, value in figures.items()}


def learner(bench: Bench) -> Figures:
    """The whole learner, from a folder to a folder, against float32 on the CPU: all weights, LoRA, QLoRA."""
    samples, figures = LITTLE.samples(), {"faults": []}
    with tempfile.TemporaryDirectory() as folder:
        start = _saved(Path(folder) / "model")
        for name, adapter in (("none", None), ("lora", LoRA), ("qlora", QLoRA)):
            if name == "qlora" and "missing" in (_version("bitsandbytes"), _version("accelerate")):
                figures[name] = "skipped: bitsandbytes or accelerate is missing"
                continue
            first = start if adapter is None else adapter(r=4).create(start, Path(folder) / f"{name}_start", 0)
            there, here = (
                _curve(first, samples, hardware, Path(folder) / f"{name}_{side}")
                for side, hardware in (("there", bench.profile(activation_checkpointing=True)), ("here", Profile()))
            )
            apart = max(abs(one - other) for one, other in zip(there, here, strict=True))
            figures[name] = {"losses": [round(loss, 5) for loss in there], "apart": float(f"{apart:.2g}")}
            if apart > 0.02 * max(map(abs, here)):
                figures["faults"].append(f"{name}: losses {there}, on the CPU {here}")
    return figures


def _saved(folder: Path, shape: Shape = TINY) -> Snapshot:
    tokenizer = word_tokenizer([[Message("user", " ".join(f"w{n}" for n in range(TINY.vocab - 7)))]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return snapshots.save(LlamaForCausalLM(shape.config(512)), tokenizer, folder, "tiny")


def _curve(first: Snapshot, samples: Sequence[Sample], hardware: Profile, folder: Path) -> list[float]:
    made = LightningLearner(
        OfflinePO(), hardware, AdamW(lr=1e-3, eps=1e-4), batch_utterances=len(samples) // 3, schedule="constant"
    )
    return [row["loss"] for row in made.learn(samples, first, folder, seed=0, name="next")[1]["curve"]]


# --- speed and memory ---------------------------------------------------------------------------------------------


def full_1b(bench: Bench) -> Figures:
    return _speed(bench, ONE_B)


def checkpointed_1b(bench: Bench) -> Figures:
    """The same with activations computed again in the backward pass: what that costs and saves."""
    return _speed(bench, ONE_B, activation_checkpointing=True)


def lora_7b(bench: Bench) -> Figures:
    return _speed(bench, SEVEN_B, LoRA(), adapt=_lora, activation_checkpointing=True)


def qlora_7b(bench: Bench) -> Figures:
    if _version("bitsandbytes") == "missing":
        return {"skipped": "bitsandbytes is missing"}
    return _speed(
        bench, SEVEN_B, QLoRA(double=False), adapt=lambda model: _lora(_four_bit(model)), activation_checkpointing=True
    )


def _lora(model: LlamaForCausalLM) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def _four_bit(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Linear layers but the head in NF4, one after the other, so that never two copies of the model exist."""
    import bitsandbytes as bnb

    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    new = bnb.nn.Linear4bit(
                        layer.in_features, layer.out_features, False, torch.bfloat16, quant_type="nf4", device="meta"
                    )
                    new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4").to(
                        layer.weight.device
                    )
                    new.support_avx512bf16_for_cpu = False  # see parley.models.fourbit
                    setattr(parent, name, new)
    model.is_loaded_in_4bit = True  # what peft asks
    return model


def _speed(
    bench: Bench,
    real: Shape,
    adapter: LoRA | None = None,
    adapt: Callable[[LlamaForCausalLM], nn.Module] | None = None,
    activation_checkpointing: bool = False,
) -> Figures:
    """Packed training with the reference pass: tokens a second, share of the device's FLOP/s that the model needs,
    memory.

    FLOPs are those of the packed tokens: 2 a weight and token forward, the same for the gradient of what comes in and,
    where weights are trained, of the weights; the head at supervised tokens only; attention as far as a token sees;
    nothing for what is computed twice.
    """
    shape = bench.shape(real)
    model: nn.Module = bench.build(shape, torch.float32 if adapt is None else torch.bfloat16)
    model = model if adapt is None else adapt(model)  # type: ignore[arg-type]
    held = bench.peak_gib()
    hardware = bench.profile(activation_checkpointing=activation_checkpointing)
    policy = bench.policy(model, hardware.head_chunk)
    samples, batch = _work(bench, shape)
    learner = LightningLearner(OfflinePO(), hardware, AdamW(lr=1e-5), batch_utterances=batch, schedule="constant")
    if activation_checkpointing:
        policy.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with _fitted(bench, learner, policy, samples) as (session, seconds):
        steps, told = session.training.plan(samples, session.seed), session.figures()
        flops = [
            sum(_flops(shape, each, adapt is None) for each in _batches(steps, number))
            for number in range(WARM, len(steps))
        ]
        tokens = [told["curve"][number]["tokens"] for number in range(WARM, len(steps))]
        utterances = [len(steps[number].utterances) for number in range(WARM, len(steps))]
        reference = told["reference_seconds"]
        batches = [list(_batches(steps, number)) for number in range(len(steps))]
    worst = max(batches, key=lambda each: max(batch.tokens_BT.numel() for batch in each))
    planned = predict(Model(shape.config(), adapter), learner.optimizer, hardware, worst)
    figures = {
        "tokens_per_second": round(sum(tokens) / sum(seconds)),
        "utterances_per_second": round(sum(utterances) / sum(seconds), 1),
        "step_seconds": [round(each, 3) for each in seconds],
        "reference_seconds": round(reference, 2),
        "packing": round(told["packing"], 2),
        "tflops": round(sum(flops) / sum(seconds) / 1e12, 1),
        "held_gib": held,
        "peak_gib": bench.peak_gib(),
        "predicted_gib": round(planned.total / GIB, 2),
        "attention": policy.causal_lm.config._attn_implementation,
    }
    best = None if bench.tiny else _peak(torch.cuda.get_device_name(0))
    return figures | {"mfu": round(figures["tflops"] / best, 3) if best else None}


def _work(bench: Bench, shape: Shape) -> tuple[list[Sample], int]:
    """Samples for WARM + TIMED equal steps, and the utterances of one."""
    each = 2 if bench.tiny else 32
    count = each * (WARM + TIMED)
    data = replace(LITTLE, matches=count, turns=5) if bench.tiny else Dialogues(count, 5, vocab=shape.vocab)
    return data.samples(), each * 5


@contextmanager
def _fitted(
    bench: Bench, learner: LightningLearner, policy: Policy, samples: Sequence[Sample]
) -> Iterator[tuple[Session, list[float]]]:
    """A session that is over, and the seconds of its steps after the first WARM, packing and collation included."""
    ends: list[float] = []

    def ended(_row: Any) -> None:
        bench.sync()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        saving = Saving(Path(folder) / "checkpoint", "", math.inf)
        session = learner.session(Snapshot("random", ""), Path(folder), seed=0, name="", saving=saving)
        session.training = Training(learner, policy)
        session.step(samples, progress=ended)
        yield session, [after - before for before, after in pairwise(ends[WARM - 1 :])]


def _batches(steps: Plan, number: int) -> Iterator[Batch]:
    return (
        collate(steps.samples, micro, supervised(steps.samples), steps.budget.multiple)
        for micro in steps[number].micros
    )


def _flops(shape: Shape, batch: Batch, full: bool) -> float:
    real_BT = batch.tokens_BT != 0  # the padding's id, which no sample has here
    keys = (batch.positions_BT + 1)[real_BT].sum().item()
    weights = shape.block_weights * real_BT.sum().item() + shape.width * shape.vocab * len(batch.target_N)
    return (6 if full else 4) * weights + 6 * 2 * shape.layers * shape.width * keys


def plain_1b(bench: Bench) -> Figures:
    """The plain comparator on the same work: one padded row per utterance, a second model, all logits."""
    shape = bench.shape(ONE_B)
    engine = Comparator(bench.build(shape, torch.float32), OfflinePO(), AdamW(lr=1e-5), rows=8)
    samples, batch = _work(bench, shape)
    seconds = []
    for at in range(3):
        bench.sync()
        started = time.perf_counter()
        with torch.autocast(bench.device, torch.bfloat16):
            engine.step(samples[at * batch : (at + 1) * batch])
        bench.sync()
        seconds.append(time.perf_counter() - started)
    return {
        "utterances_per_second": round(batch / median(seconds[1:]), 1),
        "step_seconds": [round(each, 3) for each in seconds],
        "peak_gib": bench.peak_gib(),
    }


def head(bench: Bench) -> Figures:
    """Memory of log-probs in chunks, backward included, against all supervised tokens' logits at once."""
    rows, length = (2, 32) if bench.tiny else ((8, 2048) if bench.gib > 70 else (2, 2048))
    shape = TINY if bench.tiny else Shape(2048, 1, 32, 8, 2048, 128256)
    model = bench.build(shape, torch.bfloat16)
    samples = [Sample(str(n), tuple(range(7 + n, 7 + n + length)), (Utterance(1, length),)) for n in range(rows)]
    (micro,) = pack(samples, [[n] for n in range(rows)], Budget(length, 10**9, trees=False))
    batch = collate(samples, micro, supervised(samples)).to(bench.device)
    peaks = []
    for chunk in (2048 if not bench.tiny else 16, 10**9):
        bench.peak_gib()
        Policy(model, chunk)(batch).sum().backward()
        peaks.append(bench.peak_gib())
        model.zero_grad()
    chunked, whole = peaks
    faults = ["chunks save less than half"] if chunked is not None and whole is not None and chunked > whole / 2 else []
    return {
        "supervised": len(batch.target_N),
        "vocabulary": shape.vocab,
        "chunked_gib": chunked,
        "whole_gib": whole,
        "faults": faults,
    }


# --- sharding and play --------------------------------------------------------------------------------------------


@contextmanager
def _alone(device: str) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "gloo" if device == "cpu" else "nccl"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def fsdp(bench: Bench) -> Figures:
    """Sharded by FSDP2 over one rank against one plain process: the same losses."""
    shape, curves, figures = bench.shape(MIDDLE), [], Figures()
    for name, strategy in (("plain", "single"), ("sharded", "fsdp")):
        hardware = bench.profile(strategy=strategy)
        samples, batch = _work(bench, shape)
        learner = LightningLearner(
            OfflinePO(), hardware, AdamW(lr=1e-4, eps=1e-4), batch_utterances=batch, schedule="constant"
        )
        with _alone(bench.device):
            policy = bench.policy(bench.build(shape, torch.float32), hardware.head_chunk)
            if strategy == "fsdp":
                shard(policy, bench.device, mixed=True)
            bench.peak_gib()
            with _fitted(bench, learner, policy, samples) as (session, seconds):
                curves.append([row["loss"] for row in session.figures()["curve"]])
            figures[name] = {"step_seconds": [round(each, 3) for each in seconds], "peak_gib": bench.peak_gib()}
            del policy, session
    apart = max(abs(one - other) for one, other in zip(*curves, strict=True))
    faults = [f"losses {curves[1]} sharded, {curves[0]} plain"] if apart > 1e-2 * max(map(abs, curves[0])) else []
    return figures | {"apart": float(f"{apart:.2g}"), "faults": faults}


def play(bench: Bench) -> Figures:
    """The transformers backend: replies a second, and how many token ids are those of float32 on the CPU."""
    from parley.backends.hf import HFBackend

    count, length = (4, 8) if bench.tiny else (256, 64)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        start = _saved(Path(folder) / "model")
        sampling = Sampling(max_tokens=length)
        prompts = [
            Prompt(
                f"{n}/0", f"{n}/seat", (), seed=n, sampling=sampling, token_ids=(2, 7 + n, 8, 9), policy=start.version
            )
            for n in range(count)
        ]
        expected, _ = _replies(HFBackend(), start, prompts)
        for dtype in ("float32", "bfloat16"):
            found, seconds = _replies(HFBackend(device=bench.device, dtype=dtype), start, prompts)
            same = sum(one == other for key in expected for one, other in zip(expected[key], found[key], strict=False))
            total = sum(map(len, expected.values()))
            figures[dtype] = {
                "same_ids": round(same / total, 4),
                "tokens_per_second": round(sum(map(len, found.values())) / seconds),
            }
    bad = figures["float32"]["same_ids"] < 0.99
    return figures | {"faults": ["float32 gives other token ids than the CPU"] if bad else []}


def _replies(backend: Any, start: Snapshot, prompts: Sequence[Prompt]) -> tuple[dict[str, tuple[int, ...]], float]:
    backend.load(start)
    started, found = time.perf_counter(), {}
    backend.submit(prompts)
    while backend.busy:
        found |= {each.id: each.token_ids for each in backend.poll()}
    seconds = time.perf_counter() - started
    backend.close()
    return found, seconds


def _engine(check: Callable[[str, Snapshot], Figures], bench: Bench) -> Figures:
    """A check of `gpu_engines.py` on a small model."""
    with tempfile.TemporaryDirectory() as folder:
        return check(bench.device, _saved(Path(folder) / "model", SERVED))


ALL: dict[str, Callable[[Bench], Figures]] = {
    each.__name__: each
    for each in (device, packed, full_1b, checkpointed_1b, lora_7b, qlora_7b, plain_1b, head, learner, fsdp, play)
} | {name: partial(_engine, check) for name, check in ENGINES.items()}


def main(out: str, device_name: str, attention: str, names: Sequence[str]) -> None:
    """Appends a line of JSON to `out` after each check."""
    if device_name == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU: use --cpu for tiny shapes, or install a CUDA build")
    torch.set_num_threads(1 if device_name == "cpu" else 4)
    bench = Bench(device_name, sparse=attention == "flex_attention")
    for name in names:
        started = time.perf_counter()
        figures = ALL[name](bench)
        status = "skipped" if "skipped" in figures else "failed" if figures.get("faults") else "ok"
        result = {"status": status, "seconds": round(time.perf_counter() - started, 1), **figures}
        with open(out, "a") as file:
            file.write(json.dumps([name, result]) + "\n")
