"""Memory as it is predicted from a config is what the learner takes; sharding shares what it shares."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from parley.batches.packing import Budget, collate, pack, supervised
from parley.batches.shapes import Shape, draw
from parley.learners.memory import GIB, Memory, Model, four_bit_bytes, predict
from parley.learners.optim import AdamW, RMSProp
from parley.models.adapter import LoRA
from parley.models.published import SHAPES, shape
from streams import Cpu

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import plan_memory

CASES = [
    "few tokens",
    "many tokens, checkpointed",
    "many words, small chunks",
    "dropout, averages",
    "bf16-mixed",
    "qlora",
]


@pytest.mark.parametrize("name", CASES)
def test_predicted_is_what_the_learner_takes(name, tmp_path):
    """The bar is 15 %; what is missed here is a percent or two."""
    memory, measured = plan_memory.compare(plan_memory.cases()[name], tmp_path)
    assert memory.total == pytest.approx(measured, rel=0.05)


PUBLISHED = {
    "mistral_7b": 7_241_732_096, "llama2_7b": 6_738_415_616, "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
}  # fmt: skip


def test_published_shapes_have_the_published_parameters():
    assert {name: Model(shape(name)).parameters()[0] for name in SHAPES} == PUBLISHED
    whole, trained = Model(shape("llama2_7b"), LoRA(r=8)).parameters()
    assert trained == 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) and whole == PUBLISHED["llama2_7b"] + trained


@pytest.mark.parametrize("double", [True, False])
def test_four_bit_weights_take_what_bitsandbytes_stores(double):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    matrix = torch.randn(96, 704)
    packed, state = bitsandbytes.functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=double)
    kept = [
        packed,
        state.absmax,
        state.code,
        *([state.state2.absmax, state.state2.code, state.offset] if double else []),
    ]
    assert four_bit_bytes(matrix.numel(), double) == sum(each.numel() * each.element_size() for each in kept)


# --- on several ranks, and what the switches do
# -------------------------------------------------------------------------

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def small(**changes):
    config = shape("llama2_7b")
    config.update({**SMALL, "vocab_size": 2000, **changes})
    return config


def predicted(adapter=None, optimizer=AdamW(1e-3), devices=1, strategy="single", **hardware) -> Memory:
    profile = replace(Profile(), devices=devices, strategy=strategy, **hardware)
    samples = list(draw([Shape("pairs", 4, 100, (40, 40))]))
    micros = pack(samples, [range(at, at + 2) for at in range(0, 8, 2)], Budget(400, 400))
    batches = [collate(samples, micro, supervised(samples)) for micro in micros]
    return predict(Model(small(), adapter), optimizer, profile, batches)


@dataclass(frozen=True)
class Profile(Cpu):
    nodes: int = 1
    strategy: str = "single"


def test_all_weights_with_adamw_are_four_numbers_a_parameter():
    memory, whole = predicted(), Model(small()).parameters()[0]
    assert memory.weights == pytest.approx(4 * whole, rel=1e-3) and memory.optimizer == pytest.approx(
        8 * whole, rel=1e-3
    )
    assert predicted(optimizer=RMSProp(1e-3)).optimizer == pytest.approx(4 * whole, rel=1e-3)
    trained = Model(small(), LoRA(r=2)).parameters()[1]
    assert predicted(adapter=LoRA(r=2)).optimizer == pytest.approx(
        8 * trained, rel=1e-2
    )  # and a counter of steps for each


def test_sharding_shares_weights_and_numbers_but_no_activations():
    alone, among = predicted(), predicted(devices=8, strategy="fsdp")
    assert among.weights == pytest.approx(alone.weights / 8, rel=1e-3) and among.optimizer == pytest.approx(
        alone.optimizer / 8, rel=1e-3
    )
    assert (
        among.activations + among.logits >= 0.9 * (alone.activations + alone.logits)
        and among.exchange > 0 == alone.exchange
    )
    copied = predicted(devices=8, strategy="ddp")
    assert copied.weights == alone.weights and copied.exchange == 4 * Model(small()).parameters()[0]


def test_checkpointing_and_small_chunks_save_what_they_are_for():
    plain, spared = predicted(head_chunk=8), predicted(head_chunk=8, activation_checkpointing=True)
    assert spared.activations < 0.7 * plain.activations
    assert predicted(head_chunk=8).most_logits < 0.2 * predicted(head_chunk=1000).most_logits


def test_a_gpu_needs_more_than_is_given_out():
    memory = Memory("backward", weights=GIB, gradients=0, optimizer=0, activations=GIB, logits=0)
    assert memory.needed("cpu") == 2 * GIB and memory.needed("gpu") == pytest.approx(3.1 * GIB)
