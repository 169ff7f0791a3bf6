"""Replies under a JSON schema on the transformers backend: held to it where llguidance can, free where it cannot."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parley.backends import guide as guides
from parley.backends.hf import HFBackend
from parley.games.base import Message, Options
from parley.games.verdict import Rubric, ratings
from parley.models import snapshot
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.player import Completion, Prompt, Sampling
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RUBRIC = Rubric.of(
    "Judge.", {"goal": {"low": 0, "high": 10}, "secret": {"low": -10, "high": 0}, "tact": {"low": -0.5, "high": 0.5}}
)
NAMES = ("Ann Ash", "Bob Birch")
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """An untrained Llama over bytes: left alone, it writes noise."""
    core = Tokenizer(models.BPE({each: at for at, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<pad>", special=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<pad>", chat_template=TEMPLATE
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=288, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=512, eos_token_id=256,
            )
        )  # fmt: skip
    model.generation_config = GenerationConfig(eos_token_id=256, pad_token_id=257, suppress_tokens=[*range(257, 288)])
    return snapshot.save(model, tokenizer, tmp_path_factory.mktemp("bytes") / "model", "bytes")


def prompts(made: Snapshot, many: int, options: Options, temperature: float = 1.0) -> list[Prompt]:
    ids = Renderer.load(made.path).extend(None, (Message("user", "Rate them."),)).prompt_ids
    sampling = Sampling(temperature=temperature, max_tokens=200)
    return [
        Prompt(f"m{n}/judge.1", f"m{n}/judge", (), n, options=options, sampling=sampling, token_ids=tuple(ids),
               policy=made.version)
        for n in range(many)
    ]  # fmt: skip


def answered(backend: HFBackend, asked: list[Prompt]) -> dict[str, Completion]:
    backend.submit(asked)
    done: dict[str, Completion] = {}
    while backend.busy:
        done |= {each.id: each for each in backend.poll()}
    return done


SCHEMA = Options(schema=RUBRIC.schema(NAMES))


def test_replies_under_a_schema_are_whole_and_in_range(made: Snapshot) -> None:
    pytest.importorskip("llguidance")
    backend = HFBackend(max_batch=16)
    backend.load(made)
    for temperature in (1.0, 0.0):
        for done in answered(backend, prompts(made, 24, SCHEMA, temperature)).values():
            if done.finish == "stop":  # a number between fractions has no end of its own
                assert isinstance(ratings(done.text, NAMES, RUBRIC.scales), dict), done.text
            assert done.logprobs is None  # the choice is not the policy's
    whole = replace(RUBRIC, scales={name: scale for name, scale in RUBRIC.scales.items() if name != "tact"})
    done = answered(backend, prompts(made, 24, Options(schema=whole.schema(NAMES))))
    assert {each.finish for each in done.values()} == {"stop"}
    assert len({each.text for each in done.values()}) > 12


def test_rows_without_a_schema_are_as_they_were_beside_rows_with_one(made: Snapshot) -> None:
    pytest.importorskip("llguidance")
    backend = HFBackend(max_batch=16)
    backend.load(made)
    free = [replace(each, id=f"f{each.id}") for each in prompts(made, 6, Options(max_tokens=20))]
    alone = answered(backend, free)
    mixed = answered(backend, [each for pair in zip(free, prompts(made, 6, SCHEMA), strict=True) for each in pair])
    for each in free:
        assert mixed[each.id].token_ids == alone[each.id].token_ids and mixed[each.id].logprobs is not None
    held = answered(backend, prompts(made, 6, SCHEMA))
    assert all(mixed[name].token_ids == each.token_ids for name, each in held.items())  # whatever the batch


def test_a_schema_that_cannot_be_compiled_is_refused(made: Snapshot) -> None:
    pytest.importorskip("llguidance")
    backend = HFBackend()
    backend.load(made)
    with pytest.raises(ValueError, match="JSON schema cannot be enforced"):
        backend.submit(prompts(made, 1, Options(schema={"type": "nothing"})))


def test_what_cannot_be_held_to_a_schema_is_sampled_freely_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Words set apart by blanks: there is no token for a brace."""
    words = Tiny(width=32, heads=2, layers=1, mlp=64).create(tmp_path / "m", [[Message("user", "Rate them. a b c")]], 0)
    backend = HFBackend()
    backend.load(words)
    with caplog.at_level(logging.WARNING, guides.__name__):
        done = answered(backend, prompts(words, 3, Options(schema=SCHEMA.schema, max_tokens=5)))
    assert len(done) == 3 and all(each.logprobs is not None for each in done.values())
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "replies are not held to their JSON schemas, only parsed"
    ]
