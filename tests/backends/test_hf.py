"""The transformers backend: the ids of a reply depend on its prompt and seed alone, and are those of a slow
reference."""

import random
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.backends.noise import gumbel
from parley.backends.slots import _kinds
from parley.games.base import Message, Options
from parley.models import snapshot
from parley.models.load import load_model, load_tokenizer
from parley.models.tiny import SPECIAL, word_tokenizer
from parley.play.player import Prompt, Sampling
from transformers import (
    BloomConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.bloom import BloomForCausalLM

V, END = 64, SPECIAL.index("<|end|>")
SIZES = dict(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=96,
)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
    "qwen2_mixed": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, num_key_value_heads=4, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=96)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8)),
}
FAMILIES = tuple(MODELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    @lru_cache
    def make(family, seed=0):
        tokenizer = word_tokenizer([[Message("user", " ".join(f"w{i}" for i in range(V - len(SPECIAL))))]])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MODELS[family]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4.0)  # so that replies are not uniform noise
        model.generation_config = GenerationConfig(eos_token_id=END, suppress_tokens=[0, 1, 2, 3, 4, 5])
        return snapshot.save(model, tokenizer, tmp_path_factory.mktemp("models") / family, f"{family}{seed}")

    return make


def prompts(n, seed=0, sampling=Sampling(max_tokens=12), longest=30):
    rng = random.Random(seed)
    ids = [tuple(rng.randrange(7, V) for _ in range(rng.randint(1, longest))) for _ in range(n)]
    return [
        Prompt(f"m{i}/s.1", f"m{i}/s", (), rng.getrandbits(62), sampling=sampling, token_ids=ids[i]) for i in range(n)
    ]


def answer(backend, asked):
    backend.submit(asked)
    done = {}
    while backend.busy:
        done |= {completion.id: completion for completion in backend.poll()}
    return done


def conversation(backend, n, turns, order=0):
    """All completions of n streams that go on for some turns, each turn extending the stream."""
    asked, everything = prompts(n), {}
    for turn in range(turns):
        random.Random(order + turn).shuffle(asked)
        done = answer(backend, asked)
        everything |= done
        asked = [
            replace(
                prompt,
                id=f"{prompt.stream}.{turn + 2}",
                seed=prompt.seed + 1,
                token_ids=(*prompt.token_ids, *done[prompt.id].token_ids, 7 + turn, 9),
            )
            for prompt in asked
        ]
    return everything


def slow(model, prompt):
    """One uncached float64 forward per token, noise on top: what the backend has to give."""
    model = model.double()
    ids, sampled, logprobs = list(prompt.token_ids), [], []
    while len(sampled) < prompt.sampling.max_tokens and (not sampled or sampled[-1] != END):
        with torch.no_grad():
            logits = model(torch.tensor([ids + sampled]), use_cache=False).logits[0, -1]
        score = logits.clone()
        score[:6] = -torch.inf
        if prompt.sampling.temperature:
            score = score / prompt.sampling.temperature
            if prompt.sampling.top_k:
                score[score < score.sort(descending=True).values[prompt.sampling.top_k - 1]] = -torch.inf
            order = score.argsort(descending=True)
            kept, mass = [], 0.0
            for token in order.tolist():
                if mass < prompt.sampling.top_p:
                    kept.append(token)
                mass += float(score.softmax(0)[token])
            if prompt.sampling.top_p < 1:
                score = torch.full_like(score, -torch.inf).index_copy(0, torch.tensor(kept), score[kept])
            score = score + gumbel(torch.tensor([prompt.seed]), torch.tensor([len(sampled)]), V)[0]
        sampled.append(int(score.argmax()))
        logprobs.append(float(logits.log_softmax(0)[sampled[-1]]))
    return tuple(sampled), logprobs


SAMPLINGS = {
    "plain": Sampling(max_tokens=12),
    "cool": Sampling(temperature=0.5, max_tokens=12),
    "greedy": Sampling(temperature=0.0, max_tokens=12),
    "top_k": Sampling(top_k=5, max_tokens=12),
    "top_p": Sampling(top_p=0.7, max_tokens=12),
    "both": Sampling(temperature=1.3, top_p=0.8, top_k=9, max_tokens=12),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_ids_and_logprobs_are_the_references(folder, sampling):
    backend = HFBackend(max_batch=8)
    backend.load(made := folder("llama"))
    asked = prompts(10, 3, sampling)
    done = answer(backend, asked)
    model = load_model(made.path)
    for prompt in asked:
        ids, logprobs = slow(model, prompt)
        assert done[prompt.id].token_ids == ids
        assert list(done[prompt.id].logprobs) == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_follows_the_reference_between_turns(folder, family):
    """Also beyond the sliding window of 8 tokens, with absolute positions, and with mixed kinds of layers."""
    backend = HFBackend(max_batch=4)
    backend.load(made := folder(family))
    asked = prompts(6, 5)
    first = answer(backend, asked)
    asked = [replace(p, id=p.id + "2", token_ids=(*p.token_ids, *first[p.id].token_ids, 8, 9, 10)) for p in asked]
    second = answer(backend, asked)
    model = load_model(made.path)
    for prompt in asked:
        ids, logprobs = slow(model, prompt)
        assert second[prompt.id].token_ids == ids
        assert list(second[prompt.id].logprobs) == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_do_not_depend_on_batch_or_order(folder, family):
    def ids(order=0, **options):
        backend = HFBackend(**options)
        backend.load(folder(family))
        done = conversation(backend, 24, 3, order)
        return {key: completion.token_ids for key, completion in done.items()}, backend.sampled

    alone, sampled = ids(max_batch=1)
    assert sampled > 700
    assert ids(max_batch=64) == (alone, sampled)
    assert ids(max_batch=7, keep_gib=1e-4, order=11) == (alone, sampled)
    assert ids(max_batch=16, keep_gib=0, order=23) == (alone, sampled)


def test_streams_between_turns_stay_within_their_memory_and_go_when_they_are_forgotten(folder):
    made = folder("llama")
    backend = HFBackend(max_batch=8)
    backend.load(made)
    (pool,) = backend._pools.values()
    conversation(backend, 6, 2)
    held = {stream: sum(each.nbytes for each in stash) for stream, (stash, _) in pool.kept.streams.items()}
    assert len(held) == 6 and pool.kept.bytes == sum(held.values()) > 0
    first, *rest = held
    backend.forget([first, "another match/seat"])
    assert list(pool.kept.streams) == rest and pool.kept.bytes == sum(held[stream] for stream in rest)

    small = HFBackend(max_batch=8, keep_gib=2.5 * max(held.values()) / 2**30)
    small.load(made)
    (pool,) = small._pools.values()
    conversation(small, 6, 2)
    assert 0 < pool.kept.bytes <= small.keep_bytes and len(pool.kept.streams) < 6
    assert small.read > backend.read


def test_close_choices_are_settled_alone(folder):
    made = folder("llama")
    plain, doubtful = HFBackend(max_batch=8), HFBackend(max_batch=8, settle=1e9)
    for backend in (plain, doubtful):
        backend.load(made)
    for sampling in (Sampling(max_tokens=8), Sampling(temperature=0, max_tokens=8), Sampling(top_p=0.6, max_tokens=8)):
        asked = prompts(6, 1, sampling)
        assert {k: c.token_ids for k, c in answer(plain, asked).items()} == {
            k: c.token_ids for k, c in answer(doubtful, asked).items()
        }
    assert doubtful.settled == doubtful.sampled == plain.sampled and plain.settled < 3


def test_a_tie_is_settled_and_reported(folder, tmp_path):
    """Two equal rows of the head: every greedy choice between them is a tie."""
    made = folder("qwen2")
    model = load_model(made.path)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    tied = snapshot.save(model, load_tokenizer(made.path), tmp_path / "tied")
    backend = HFBackend(max_batch=4)
    backend.load(tied)
    done = answer(backend, prompts(3, 0, Sampling(temperature=0, max_tokens=5)))
    assert backend.settled == backend.sampled == sum(len(completion.token_ids) for completion in done.values())


def test_a_stream_is_read_once(folder):
    backend = HFBackend(max_batch=8)
    backend.load(folder("llama"))
    first = prompts(8)
    done = answer(backend, first)
    assert backend.read == sum(len(prompt.token_ids) for prompt in first)
    second = [replace(p, id=p.id + "2", token_ids=(*p.token_ids, *done[p.id].token_ids, 8, 9)) for p in first]
    before = backend.read
    answer(backend, second)
    assert backend.read - before == 8 * 3  # the last sampled token and the two new ones


def test_stops(folder):
    backend = HFBackend(max_batch=16)
    backend.load(made := folder("llama"))
    tokenizer = load_tokenizer(made.path)
    done = answer(backend, prompts(40, 2, Sampling(max_tokens=40)))
    assert {completion.finish for completion in done.values()} == {"stop", "length"}
    for completion in done.values():
        ids = completion.token_ids
        assert END not in ids[:-1] and (ids[-1] == END) == (completion.finish == "stop")
        assert completion.text.split() == tokenizer.convert_ids_to_tokens([id for id in ids if id != END])
        assert completion.policy == made.version and len(completion.logprobs) == len(ids)
        assert not set(ids) & set(range(6))  # suppressed


def test_a_stop_string_ends_the_reply(folder):
    backend = HFBackend(max_batch=16)
    backend.load(folder("llama"))
    asked = prompts(12, 2, Sampling(max_tokens=20))
    free = answer(backend, asked)
    words = {key: completion.text.split()[2] for key, completion in free.items() if len(completion.text.split()) > 4}
    stopped = answer(backend, [replace(p, options=Options(stop=(words[p.id],))) for p in asked if p.id in words])
    for key, completion in stopped.items():
        assert completion.finish == "stop" and words[key] not in completion.text
        n = len(completion.token_ids)
        assert completion.token_ids == free[key].token_ids[:n] and n <= 3


def test_lengths(folder):
    backend = HFBackend(max_batch=4)
    backend.load(folder("gpt2"))
    base = prompts(1, 8, Sampling(max_tokens=90))[0]
    asked = [
        replace(base, id="options", options=Options(max_tokens=3)),
        replace(base, id="context", token_ids=tuple(range(7, 64)) + tuple(range(7, 44))),  # 94 of 96
        replace(base, id="full", token_ids=(8,) * 96),
    ]
    done = answer(backend, asked)
    assert len(done["options"].token_ids) == 3 or done["options"].finish == "stop"
    assert len(done["context"].token_ids) <= 2
    assert done["full"].finish == "context" and done["full"].token_ids == ()


def test_policies_answer_side_by_side(folder):
    one, two = folder("llama"), folder("llama", 1)
    alone = {}
    for made in (one, two):
        backend = HFBackend(max_batch=4)
        backend.load(made)
        alone[made.version] = {key: c.token_ids for key, c in answer(backend, prompts(6)).items()}
    backend = HFBackend(max_batch=4)
    backend.load(one)
    backend.load(two)
    backend.load(two)
    asked = [replace(p, id=f"{made.version}/{p.id}", policy=made.version) for made in (one, two) for p in prompts(6)]
    done = answer(backend, asked)
    for made in (one, two):
        assert {p.id: done[f"{made.version}/{p.id}"].token_ids for p in prompts(6)} == alone[made.version]
    backend.unload(one.version)
    with pytest.raises(ValueError, match=f"asks policy '{one.version}', loaded are {two.version}"):
        backend.submit(asked[:1])
    backend.close()
    assert not backend.busy


def test_cancelled_prompts_are_forgotten(folder):
    backend = HFBackend(max_batch=4)
    backend.load(folder("llama"))
    asked = prompts(8, 4, Sampling(max_tokens=12))
    whole = answer(backend, asked)
    backend.submit(asked)
    backend.poll()
    gone = [asked[1].id, asked[3].id, asked[6].id]
    backend.cancel(gone)
    done = {}
    while backend.busy:
        done |= {c.id: c for c in backend.poll()}
    assert {c.id: c.token_ids for c in done.values()}.items() <= {c.id: c.token_ids for c in whole.values()}.items()
    assert not set(gone) & set(done)


def test_what_cannot_be_answered_is_refused(folder):
    backend = HFBackend(max_batch=4)
    prompt = prompts(1)[0]
    with pytest.raises(ValueError, match="loaded are none"):
        backend.submit([prompt])
    backend.load(folder("llama"))
    with pytest.raises(ValueError, match="no token_ids"):
        backend.submit([replace(prompt, token_ids=None)])
    with pytest.raises(ValueError, match="at least 1"):
        HFBackend(max_batch=0)
    with pytest.raises(ValueError, match="at least 0"):
        HFBackend(keep_gib=-1.0)


def test_an_architecture_that_would_be_wrong_is_refused(folder, tmp_path):
    """Bloom has no positions but slopes over a mask that this backend does not give it."""
    with torch.random.fork_rng():
        model = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4))
    made = snapshot.save(model, load_tokenizer(folder("llama").path), tmp_path / "bloom")
    with pytest.raises(ValueError, match="bloom models cannot be decoded by this backend"):
        HFBackend().load(made)
    config = LlamaConfig(**SIZES)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention, which this backend cannot decode"):
        _kinds(config)


def test_global_random_state_is_untouched(folder):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    backend = HFBackend(max_batch=4)
    backend.load(folder("llama"))
    answer(backend, prompts(4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_backend_says_how_far_each_reply_is(folder):
    backend, found = HFBackend(), folder("llama")
    backend.load(found)
    backend.submit([replace(each, policy=found.version) for each in prompts(3)])
    assert backend.underway() == {}
    lengths, seen = {}, []
    while backend.busy:
        lengths |= {each.id.rpartition(".")[0]: len(each.token_ids) for each in backend.poll()}
        seen.append(backend.underway())
    for stream, length in lengths.items():
        counts = [each[stream] for each in seen if stream in each]
        assert counts == sorted(counts) and counts[-1:] in ([length - 1], []) and len(counts) <= length
    assert len(lengths) == 3 and any(seen) and seen[-1] == {}
