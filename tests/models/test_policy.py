"""The policy module: packed rows give the numbers of plain ones, without a tensor of all tokens times the
vocabulary."""

import math
import random
import warnings

import pytest
import torch
from parley.batches.packing import Budget, MicroBatch, collate, pack, supervised
from parley.data.sample import Sample, Utterance
from parley.models import policy as module
from parley.models.attention import PATHS
from parley.models.dropout import parts
from parley.models.policy import Policy, check_packable
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

VOCAB = 61
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def sharpen(model):
    """Larger weights than at initialisation, so that a token in the wrong place shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return model


def gpt2():
    return GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=96, bos_token_id=0, eos_token_id=1)


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "qwen2 sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True)
    ),
    "gpt2": lambda: GPT2LMHeadModel(gpt2()),
    "mistral sliding": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
    "cohere scale": lambda: CohereForCausalLM(CohereConfig(**SHAPE, pad_token_id=2, logit_scale=0.25)),
    "granite scaling": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=3.0)),
    "gemma2 softcap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=8, sliding_window=5, final_logit_softcapping=2.0)
    ),
}


def build(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sharpen(MODELS[name]()).train()


def tokens(draw, count):
    return [draw.randrange(2, VOCAB) for _ in range(count)]


def extending_chats(draw):
    """Whole chats, one stream per seat, three supervised turns each."""
    return [
        Sample(f"chat{n}", tuple(tokens(draw, 30)), (Utterance(4, 8), Utterance(12, 17), Utterance(22, 30)))
        for n in range(3)
    ]


def trunk_and_branches(draw):
    """An instruction after the history: each turn is a branch that leaves the trunk at another place."""
    history, samples = tokens(draw, 26), []
    for turn in range(3):
        ids = history[: 10 + 8 * turn] + tokens(draw, 3) + tokens(draw, 6)
        samples.append(Sample(f"turn{turn}", tuple(ids), (Utterance(len(ids) - 6, len(ids)),), group="episode"))
    return samples


def pairs(draw):
    """Two answers to one prompt, one of them the beginning of the other."""
    samples = []
    for pair in range(2):
        prompt, answer = tokens(draw, 14), tokens(draw, 9)
        for side, text in ((1, answer), (-1, answer[:4] + tokens(draw, 3)), (-1, answer[:5])):
            ids = prompt + text
            samples.append(
                Sample(
                    f"{pair}{side}", tuple(ids), (Utterance(14, len(ids), pair=pair, side=side),), group=f"pair{pair}"
                )
            )
    return samples


KINDS = {"chats": extending_chats, "branches": trunk_and_branches, "pairs": pairs}


def plain(model, samples):
    """The slow reference: one row per utterance through the model's own forward, all logits; log-probs in float64."""
    values = []
    for sample in samples:
        for each in sample.utterances:
            ids_T = torch.tensor(sample.token_ids[: each.end])
            logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0].double()
            values.append(logits_TV[:-1].log_softmax(-1).gather(1, ids_T[1:, None])[each.start - 1 :, 0])
    return torch.cat(values)


def packed(policy, samples, row_tokens=10**6):
    before = supervised(samples)
    values = torch.zeros(before[-1])
    for micro in pack(samples, [[n] for n in range(len(samples))], Budget(row_tokens, 10**6)):
        batch = collate(samples, micro, before)
        values = values.index_put((batch.token_N,), policy(batch))
    return values


def loss_of(values):
    """A loss in which every token's gradient is its own."""
    return (values * torch.linspace(0.5, 1.5, len(values))).sum() / len(values)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: each.grad.double().clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_give_the_losses_and_gradients_of_one_row_per_utterance(name, kind):
    model, samples = build(name), KINDS[kind](random.Random(7))
    policy = Policy(model, head_chunk=7)  # which turns dropout off
    expected = plain(model, samples)
    wanted = gradients(model, loss_of(expected))
    for row_tokens in (10**6, 40):
        values = packed(policy, samples, row_tokens)
        assert (values - expected).abs().max() < 1e-5
        got = gradients(model, loss_of(values))
        assert got.keys() == wanted.keys()
        assert max((got[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "llama tied", "gpt2"])
def test_attention_along_paths_gives_the_same_and_knows_no_row_length(name, kind):
    model, samples = build(name), KINDS[kind](random.Random(7))
    policy = Policy(model)
    policy.use_path_attention()
    check_packable(policy)
    assert (
        policy.packable
        and policy.attention_tokens == math.inf
        and policy.causal_lm.config._attn_implementation == PATHS
    )
    expected = plain(model, samples)
    wanted = gradients(model, loss_of(expected))
    for row_tokens in (10**6, 40):
        values = packed(policy, samples, row_tokens)
        assert (values - expected).abs().max() < 1e-5
        got = gradients(model, loss_of(values))
        assert max((got[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-5


@pytest.mark.parametrize("name", ["qwen2 sliding", "mistral sliding", "gemma2 softcap"])
def test_models_with_windows_keep_their_own_attention(name):
    policy = Policy(build(name))
    before = policy.causal_lm.config._attn_implementation
    policy.use_path_attention()
    assert policy.causal_lm.config._attn_implementation == before != PATHS


def test_where_paths_are_not_exact_the_explicit_mask_serves(monkeypatch):
    """As with a model that loses what its attention is told on the way."""
    policy = Policy(build("llama"))
    policy.use_path_attention()
    monkeypatch.setattr(module, "runs", lambda batch: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_packable(policy)
    assert policy.packable and policy.causal_lm.config._attn_implementation == "sdpa"


def see_all_before(batch):
    return batch.last_BT.fill_(batch.last_BT.shape[1] - 1)


def positions_of_the_row(batch):
    return batch.positions_BT.copy_(torch.arange(batch.positions_BT.shape[1]).expand_as(batch.positions_BT))


def source_one_later(batch):
    return batch.source_N.add_(1).clamp_(max=batch.tokens_BT.numel() - 1)


@pytest.mark.parametrize("fault", [see_all_before, positions_of_the_row, source_one_later])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral sliding"])
def test_a_broken_mask_position_or_source_shows(name, fault):
    samples = pairs(random.Random(7))
    policy = Policy(build(name))
    (micro,) = pack(samples, [range(len(samples))], Budget(10**6, 10**6))
    batch = collate(samples, micro, supervised(samples))
    with torch.no_grad():
        expected = plain(policy.model, samples)[batch.token_N]
        assert (policy(batch) - expected).abs().max() < 1e-5
        fault(batch)
        assert (policy(batch) - expected).abs().max() > 1e-3


def test_rows_do_not_see_each_other_although_the_library_lets_them():
    """The trap of packing through transformers: with a cache or a mask of ones, packed sequences attend to each
    other."""
    model, draw = build("llama"), random.Random(3)
    first = Sample("first", tuple(tokens(draw, 12)), (Utterance(1, 12),))
    others = [Sample("other", tuple(tokens(draw, 12)), (Utterance(1, 12),)) for _ in range(2)]
    policy = Policy(model)
    with torch.no_grad():
        here, there = (packed(policy, [first, other])[:11] for other in others)
        assert torch.allclose(here, there, atol=1e-6)
        assert torch.allclose(here.double(), plain(model, [first]), atol=1e-5)
        ids = torch.tensor([others[0].token_ids + first.token_ids])
        positions = torch.tensor([[*range(12), *range(12)]])
        wrong = model(
            input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False
        ).logits[0, 12:-1]
        leaked = wrong.log_softmax(-1).gather(1, ids[0, 13:, None])[:, 0]
        assert (leaked - here).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "qwen2 sliding"])
def test_gradients_are_exactly_zero_at_what_no_supervised_token_depends_on(name):
    """Every token below is used once, so its embedding's gradient is its own."""
    model = build(name)
    head = torch.nn.Linear(32, VOCAB, bias=False)  # an untied head, so that only the inputs reach the embeddings
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    trunk, a, b, after = range(2, 10), range(10, 16), range(16, 22), range(22, 26)
    samples = [
        Sample("a", (*trunk, *a, *after), (Utterance(10, 14),)),
        Sample("b", (*trunk, *b), (Utterance(9, 14, weight=0.0),)),
    ]
    values = packed(Policy(model), samples)
    model.zero_grad()
    values[:4].sum().backward()  # only the span of a: the tokens at places 10 to 13
    reached = model.get_input_embeddings().weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert reached == [*trunk, *a[:5]]  # not the span's last token, nor what follows it, nor the other branch


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator gives, backward included."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return result


@pytest.mark.parametrize("chunk, bounded", [(8, True), (10**6, False)])
def test_no_tensor_is_as_large_as_tokens_times_vocabulary(chunk, bounded):
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 997}, tie_word_embeddings=True))
    samples = [
        Sample(str(n), tuple(random.Random(n).randrange(997) for _ in range(30)), (Utterance(1, 30),)) for n in range(4)
    ]
    count = supervised(samples)[-1]
    with LargestTensor() as seen:
        loss_of(packed(Policy(model, chunk), samples)).backward()
    assert (seen.largest < count * 997) == bounded  # without chunks the hook does see such a tensor
    assert not bounded or seen.largest <= 997 * 32  # the embedding and its gradient are larger than a chunk's logits


@pytest.mark.parametrize("trained", ["adapter", "frozen head", "adapter with head"])
def test_chunks_give_the_gradients_of_the_whole_for_adapters_and_frozen_heads(trained):
    from peft import LoraConfig, get_peft_model

    samples = trunk_and_branches(random.Random(1))

    def run(chunk):
        model = build("llama")
        if trained == "frozen head":
            model.lm_head.requires_grad_(False)
        else:
            targets = ["q_proj", "v_proj"] + (["lm_head"] if trained == "adapter with head" else [])
            with torch.random.fork_rng():
                torch.manual_seed(1)
                config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, lora_dropout=0.5)
                model = get_peft_model(model, config).train()
        values = packed(Policy(model, chunk), samples)
        return values, gradients(model, loss_of(values))

    whole, expected = run(10**6)
    chunked, got = run(5)
    assert torch.equal(whole, chunked) or torch.allclose(whole, chunked, atol=1e-6)
    assert got.keys() == expected.keys() and got
    assert ("base_model.model.lm_head.lora_A.default.weight" in got) == (trained == "adapter with head")
    assert all((got[key] - expected[key]).abs().max() < 1e-6 for key in got)


def test_dropout_is_off_in_training_mode():
    config = GPT2Config(**{**gpt2().to_dict(), "resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5})
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.5))
    for model in (GPT2LMHeadModel(config), llama):
        policy, samples = Policy(model).train(), extending_chats(random.Random(0))
        with torch.no_grad():
            assert torch.equal(packed(policy, samples), packed(policy, samples))


@pytest.mark.parametrize("name", MODELS)
def test_the_probe_accepts_what_can_be_packed(name):
    policy = Policy(build(name), packable=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_packable(policy)
    assert policy.packable


def test_a_model_that_cannot_be_packed_is_unpacked_with_a_warning_and_stays_right():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sharpen(BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)))
    policy, samples = Policy(model), trunk_and_branches(random.Random(7))
    with pytest.warns(UserWarning, match="one sample per row"):
        check_packable(policy)
    before = supervised(samples)
    (micro,) = pack(samples, [[0, 1, 2]], Budget(10**6, 10**6, trees=policy.packable))
    batch = collate(samples, micro, before)
    with torch.no_grad():
        assert (policy(batch) - plain(model, samples)[batch.token_N]).abs().max() < 1e-5
    (micro,) = pack(samples, [[0, 1, 2]], Budget(10**6, 10**6))
    with pytest.raises(ValueError, match="cannot take packed rows"):
        policy(collate(samples, micro, before))


def test_the_probe_notices_a_mask_that_leaks(monkeypatch):
    policy = Policy(build("llama"))
    real = module.attention_masks
    monkeypatch.setattr(
        module, "attention_masks", lambda config, batch, dtype: real(config, batch, dtype).clamp(min=-0.5)
    )
    with pytest.warns(UserWarning, match="one sample per row"):
        check_packable(policy)
    assert not policy.packable


def test_a_head_that_the_module_does_not_know_is_refused():
    model = build("llama")

    class Odd(torch.nn.Module):
        """A whole model whose logits are not what trunk and head give."""

        def __init__(self):
            super().__init__()
            self.inner = model
            self.config, self.base_model, self.dtype = model.config, model.model, model.dtype

        def get_output_embeddings(self):
            return self.inner.lm_head

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, **inputs):
            out = self.inner(**inputs)
            out.logits = out.logits * 1.5
            return out

    with pytest.raises(ValueError, match="does not know"):
        check_packable(Policy(Odd()))


def test_the_block_mask_says_what_the_additive_mask_says():
    """The mask of the GPU's block-sparse kernel, which has no backward on a CPU: its rule is compared entry by
    entry."""
    samples = trunk_and_branches(random.Random(5)) + pairs(random.Random(6))
    (micro,) = pack(samples, [[n] for n in range(len(samples))], Budget(10**6, 10**6))
    batch = collate(samples, micro, supervised(samples), multiple=128)
    for window in (None, 5):
        config = LlamaConfig(**SHAPE, sliding_window=window, attn_implementation="sdpa")
        additive = module.attention_masks(config, batch, torch.float32)[:, 0]
        config._attn_implementation = "flex_attention"
        block = module.attention_masks(config, batch, torch.float32)
        index = torch.arange(128)
        said = block.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None, :])
        assert torch.equal(said, additive[0] == 0)
        assert block.shape == (1, 1, 128, 128)


@pytest.mark.parametrize("half", [True, False])
def test_in_half_precision_on_a_cpu_the_head_meets_few_lengths(half, monkeypatch):
    """oneDNN compiles a product for every length that it meets, and keeps a thousand of them."""
    model, samples, met = build("llama"), extending_chats(random.Random(0)), []
    model.lm_head.register_forward_pre_hook(lambda _, given: met.append(len(given[0])))

    def found():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            values = packed(Policy(model), samples)
            return values, gradients(model, loss_of(values))

    values, slopes = found()
    tokens = supervised(samples)[-1]
    assert tokens % module.EVEN and met == [tokens + (-tokens % module.EVEN if half else 0)]
    monkeypatch.setattr(module, "EVEN", 1)
    expected, theirs = found()
    assert torch.equal(values, expected) and met[1] == tokens
    assert all((slopes[name] - theirs[name]).abs().max() <= 1e-2 * theirs[name].abs().max() for name in theirs)


def test_a_worked_number():
    """A model whose head is zero gives every token 1/V."""
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    values = packed(Policy(model), extending_chats(random.Random(0)))
    assert values.tolist() == pytest.approx([-math.log(VOCAB)] * len(values))
    assert values.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_in_mixed_precision_a_part_of_a_block_casts_its_input_once(name, monkeypatch):
    policy, met, samples = Policy(build(name)), [], trunk_and_branches(random.Random(3))
    batch = collate(samples, MicroBatch(((0,),), (len(samples[0].token_ids) - 1,)), supervised(samples))
    for part in parts(policy.causal_lm):
        for each in part.modules():
            if isinstance(each, torch.nn.Linear | Conv1D):
                each.register_forward_pre_hook(lambda _, inputs: met.append((inputs[0].dtype, inputs[0].data_ptr())))

    def run():
        met.clear()
        policy.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            values = policy(batch)
        values.sum().backward()
        return values.detach(), torch.cat([each.grad.flatten() for each in policy.parameters()])

    values, gradient = run()
    assert {dtype for dtype, _ in met} == {torch.bfloat16}
    if "gpt2" not in name:  # which has one matrix for queries, keys and values
        assert len({at for _, at in met[:3]}) == 1
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda device: False
    )  # the parts find no autocast, the products do
    plain, reference = run()
    assert torch.equal(values, plain)
    assert torch.nn.functional.cosine_similarity(gradient, reference, 0) > 0.999
    assert torch.float32 in {dtype for dtype, _ in met}
