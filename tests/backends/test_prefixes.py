"""The prefix cache: what it holds is what a plain forward makes, whoever asked first, and beginnings are read once."""

import random
from dataclasses import replace

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.backends.prefixes import BLOCK, OFTEN, Prefixes
from parley.backends.sampling import Draw, choose
from parley.backends.slots import size
from parley.games.base import Message
from parley.models import snapshot
from parley.models.load import load_model
from parley.models.tiny import SPECIAL, word_tokenizer
from parley.play.player import Prompt, Sampling
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

V, END = 64, SPECIAL.index("<|end|>")
SIZES = dict(
    vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    tokenizer = word_tokenizer([[Message("user", " ".join(f"w{i}" for i in range(V - len(SPECIAL))))]])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = FAMILIES[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.generation_config = GenerationConfig(eos_token_id=END, suppress_tokens=[0, 1, 2, 3, 4, 5])
    return snapshot.save(model, tokenizer, tmp_path_factory.mktemp("models") / request.param, request.param)


def words(rng, n):
    return tuple(rng.randrange(7, V) for _ in range(n))


def streams(seed=0):
    rng = random.Random(seed)
    rules = words(rng, 2 * BLOCK + 5)
    return [(*rules[: rng.randint(1, len(rules))], *words(rng, rng.randint(1, 3 * BLOCK))) for _ in range(12)]


@torch.inference_mode()
def test_logits_are_a_plain_forwards_and_depend_on_the_ids_alone(made):
    model, asked = load_model(made.path), streams()
    plain = [model(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in asked]
    roomy, tight, later = Prefixes(model, 2**30), Prefixes(model, 0), Prefixes(model, 50_000)
    first = [roomy.logits(ids)[0] for ids in asked]
    for logits, expected in zip(first, plain, strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    order = list(range(len(asked)))
    for cache in (roomy, tight, later):
        random.Random(1).shuffle(order)
        for at in order:
            assert torch.equal(cache.logits(asked[at])[0], first[at])
        held = [size(block.stash) for block in cache._blocks.values()]
        assert cache.bytes == sum(held) <= cache.room


def test_without_room_leaves_go_first_and_every_block_can_still_be_found():
    rng, trunk = random.Random(3), words(random.Random(2), 2 * BLOCK)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES["llama"]()
    (one := Prefixes(model, 2**30)).logits((*trunk, 7))
    cache = Prefixes(model, 2 * one.bytes)  # of 4 blocks
    for _ in range(30):
        cache.logits((*trunk[: rng.choice((1, 2)) * BLOCK], *words(rng, BLOCK + rng.randint(1, 40))))
        numbers = {block.number for block in cache._blocks.values()}
        assert 0 < cache.bytes <= cache.room and {before for before, _ in cache._blocks} <= numbers | {0}
    assert (0, trunk[:BLOCK]) in cache._blocks  # what all need is there to the end


def prompts(n, beginning, seed):
    rng = random.Random(seed)
    return [
        Prompt(f"m{i}/s.1", f"m{i}/s", (), rng.getrandbits(62), sampling=Sampling(max_tokens=6),
               token_ids=(*beginning, *words(rng, rng.randint(1, 20))))
        for i in range(n)
    ]  # fmt: skip


def answer(backend, asked):
    backend.submit(asked)
    done = {}
    while backend.busy:
        done |= {each.id: each.token_ids for each in backend.poll()}
    return done


def test_a_common_beginning_is_read_once_and_changes_no_id(made):
    beginning = words(random.Random(9), 3 * BLOCK + 1)
    asked = prompts(40, beginning, 4)
    with_room, without = HFBackend(max_batch=16), HFBackend(max_batch=16, keep_gib=0.0)
    for backend in (with_room, without):
        backend.load(made)
    assert answer(with_room, asked) == answer(without, asked)
    spared = without.read - with_room.read
    assert spared == sum(BLOCK * (len(asked) - (OFTEN - 1) * (at + 1)) for at in range(3))
    again = [replace(each, id=f"{each.id}b", stream=f"{each.stream}b") for each in asked]
    before = with_room.read
    answer(with_room, again)
    assert with_room.read - before == sum(len(each.token_ids) for each in asked) - 3 * BLOCK * len(asked)


def test_a_common_beginning_may_come_with_the_first_prompts_after_an_update(made):
    """Short beside what follows, it is put into slots that no forward has filled yet."""
    rng, beginning = random.Random(7), words(random.Random(6), BLOCK + 1)
    asked = [replace(each, token_ids=each.token_ids + words(rng, 3 * BLOCK)) for each in prompts(8, beginning, 5)]
    found = []
    for room in (4.0, 0.0):
        backend = HFBackend(max_batch=8, keep_gib=room)
        backend.load(made)
        backend.update(made.version, "new", dict(load_model(made.path).named_parameters()).items())
        found.append(answer(backend, [replace(each, policy="new") for each in asked]))
    assert found[0] == found[1]


def reference(logits_V, draw, never):
    """The choice by sorting everything."""
    from parley.backends.noise import gumbel

    score = logits_V.double()
    score[never] = -torch.inf
    temperature, top_k, top_p = float(draw.temperature), int(draw.top_k), float(draw.top_p)
    score = score / (temperature or 1.0)
    order = score.argsort(descending=True)
    order = order[: top_k or len(order)]
    mass = score[order].softmax(0).cumsum(0).roll(1)
    mass[0] = 0.0
    kept = order[mass < top_p] if top_p < 1 else order
    noise = gumbel(draw.seed, draw.position, len(score))[0] if temperature else torch.zeros_like(score)
    return int(kept[(score + noise)[kept].argmax()])


KINDS = [
    (Sampling(top_k=50, temperature=1.2),),
    (Sampling(top_k=5), Sampling(top_k=9, top_p=0.6, temperature=0.7)),
    (Sampling(top_k=5), Sampling(temperature=0.0), Sampling(top_p=0.8)),
    (Sampling(top_k=1), Sampling(top_k=1000)),
]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_choices_are_those_of_a_whole_sort(kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = [kinds[at % len(kinds)] for at in range(24)]
    logits = torch.randn(len(rows), 300, generator=generator) * 3
    draw = Draw(
        torch.tensor([each.temperature for each in rows], dtype=torch.float64),
        torch.tensor([each.top_k for each in rows]),
        torch.tensor([each.top_p for each in rows], dtype=torch.float64),
        torch.randint(0, 2**62, (len(rows),), generator=generator),
        torch.randint(0, 64, (len(rows),), generator=generator),
    )
    never = torch.zeros(300, dtype=torch.bool)
    never[:6] = True
    token, close = choose(logits, draw, set(kinds), never, 1e-9)
    assert not close.any()
    assert token.tolist() == [reference(logits[at], draw.at(at), never) for at in range(len(rows))]
