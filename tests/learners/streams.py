"""Small models on disk and samples for the learner's tests."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from parley.data.sample import Sample, Utterance
from parley.games.base import Message
from parley.models import snapshot
from parley.models.snapshot import Snapshot
from parley.models.tiny import word_tokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 64
IDS = {"bos_token_id": 2, "eos_token_id": 6, "pad_token_id": 0}
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, **IDS,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, attention_dropout=0.3)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, **IDS)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, **IDS)),
}


@dataclass(frozen=True)
class Cpu:
    """A hardware profile, as the learner reads it."""

    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "single"
    precision: str = "32-true"
    threads: int = 1
    micro_tokens: int = 512
    row_tokens: int = 128
    head_chunk: int = 64
    activation_checkpointing: bool = False


def start(folder: Path, name: str = "llama") -> Snapshot:
    """Snapshot 0 of an architecture, made on the spot."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.1)
    tokenizer = word_tokenizer([[Message("user", " ".join(f"w{n}" for n in range(VOCAB - 7)))]])
    return snapshot.save(model, tokenizer, folder / name, name)


def episodes(count: int = 6, seed: int = 0) -> list[Sample]:
    """Streams that any objective takes: chats, branches off a history, pairs on one prompt, imitation rows."""
    draw = random.Random(seed)
    samples = []
    for number in range(count):
        history = [draw.randrange(7, VOCAB) for _ in range(20)]
        for turn in range(2):
            ids = history[: 12 + 8 * turn] + [draw.randrange(7, VOCAB) for _ in range(8)]
            span = Utterance(len(ids) - 5, len(ids), reward=draw.uniform(-1, 1), weight=draw.choice([0.5, 1.0]))
            samples.append(Sample(f"{number}.{turn}", tuple(ids), (span,), group=f"episode {number}"))
        for side in (1, -1):
            ids = history[:9] + [draw.randrange(7, VOCAB) for _ in range(draw.randint(3, 9))]
            span = Utterance(9, len(ids), pair=number, side=side)
            samples.append(Sample(f"{number}.{side}", tuple(ids), (span,), group=f"pair {number}"))
        ids = [draw.randrange(7, VOCAB) for _ in range(24)]
        spans = (Utterance(3, 9, kind="sft", weight=0.5), Utterance(12, 24, kind="sft"))
        samples.append(Sample(f"{number}.sft", tuple(ids), spans))
    return samples
