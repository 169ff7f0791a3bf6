"""Adapters, on bases in full and in 4 bits: what is trained is what is stored, played and merged, and the base stays as
it was."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import bitsandbytes.nn.modules as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
from bitsandbytes.nn import Linear4bit
from hydra import compose, initialize_config_module
from parley.batches.packing import Budget, collate, pack, supervised
from parley.data.sample import Sample, Utterance
from parley.games.base import Message
from parley.learners.device import load
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.models import fourbit, snapshot
from parley.models.adapter import Adapter, LoRA, QLoRA, merge
from parley.models.bases import Bases
from parley.models.dropout import blocks
from parley.models.load import load_model, load_policy
from parley.models.policy import Policy, check_packable
from parley.models.tiny import word_tokenizer
from parley.objectives.filtered_bc import FilteredBC
from parley.run.config import register
from parley.system.files import InputError
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCAB = 64
IDS = {"bos_token_id": 2, "eos_token_id": 6, "pad_token_id": 0}
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, **IDS,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=96, **IDS)
    ),
}
KINDS = {"lora": LoRA(r=4, alpha=16), "qlora": QLoRA(r=4, alpha=16)}
register()
PROBE = torch.tensor([[random.Random(0).randrange(7, VOCAB) for _ in range(24)]])


def cpu():
    """The profile `cpu`, with small rows."""
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", ["hardware=cpu", "hardware.micro_tokens=512", "hardware.row_tokens=128"]).hardware


def base_in(folder, name="llama"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.15)
    tokenizer = word_tokenizer([[Message("user", " ".join(f"w{n}" for n in range(VOCAB - 7)))]])
    return snapshot.save(model, tokenizer, folder / name, name)


def samples(count=12, seed=0):
    """Branches off one history, which packing turns into trees."""
    draw = random.Random(seed)
    history, found = [draw.randrange(7, VOCAB) for _ in range(20)], []
    for number in range(count):
        ids = history[: draw.randint(6, 20)] + [draw.randrange(7, VOCAB) for _ in range(9)]
        found.append(Sample(str(number), tuple(ids), (Utterance(len(ids) - 6, len(ids)),)))
    return found


def logits(model):
    with torch.no_grad():
        return model(input_ids=PROBE, use_cache=False).logits[0].float()


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@dataclass
class Made:
    """What the learner made of a fresh adapter, and what the base held before."""

    base: object
    fresh: object
    trained: object
    before: dict


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    base = base_in(folder)
    before = contents(base.path)
    fresh = KINDS[request.param].create(base, folder / "fresh", seed=3)
    learner = LightningLearner(FilteredBC(), cpu(), AdamW(lr=1e-2), epochs=2, batch_utterances=4)
    trained, _ = learner.learn(samples(), fresh, folder / "learn", seed=0, name="iter_001")
    return Made(base, fresh, trained, before)


# --- what is trained, and what it stands on
# -----------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(made):
    base = logits(load_model(made.base.path, four_bit=fourbit.FourBit.read(made.fresh.path)))
    fresh, trained = (logits(load_policy(each)) for each in (made.fresh, made.trained))
    assert torch.equal(fresh, base)
    assert (trained - base).abs().max() > 0.1


def test_training_leaves_every_byte_of_the_base_and_of_the_fresh_adapter(made):
    assert contents(made.base.path) == made.before
    assert snapshot.of(made.fresh.path, "start", made.base.path) == made.fresh
    assert made.trained.base == made.base.path and made.trained.version != made.fresh.version


def test_only_the_adapter_takes_gradients(made):
    policy = Policy(load_policy(made.trained, trainable=True)).train()
    names = {name for name, each in policy.named_parameters() if each.requires_grad}
    assert names and all(".lora_" in name for name in names)
    assert {each.dtype for name, each in policy.named_parameters() if name in names} == {torch.float32}


def test_the_same_seed_draws_the_same_adapter_and_another_seed_another(made, tmp_path):
    kind = KINDS["lora" if fourbit.FourBit.read(made.fresh.path) is None else "qlora"]
    state = torch.random.get_rng_state()
    assert kind.create(made.base, tmp_path / "same", seed=3).version == made.fresh.version
    assert kind.create(made.base, tmp_path / "other", seed=4).version != made.fresh.version
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_snapshot_goes_to_disk_and_back_without_loss(made, tmp_path):
    model = load_policy(made.trained, trainable=True)
    again = snapshot.save(
        Adapter.of(model), word_tokenizer([[Message("user", "x")]]), tmp_path / "again", base=made.base.path
    )
    weights, stored = (load_file(Path(each.path) / snapshot.ADAPTER) for each in (again, made.trained))
    assert weights.keys() == stored.keys() and all(torch.equal(weights[name], stored[name]) for name in stored)
    assert fourbit.FourBit.read(again.path) == fourbit.FourBit.read(made.trained.path)
    assert (Path(again.path) / "adapter_config.json").read_text() == (
        Path(made.trained.path) / "adapter_config.json"
    ).read_text()
    assert torch.equal(logits(load_policy(again)), logits(model))


def test_an_adapter_names_its_base_and_its_version_does_not_depend_on_the_place(made, tmp_path):
    moved = tmp_path / "elsewhere" / "models--lab--small" / "snapshots" / "1"
    shutil.copytree(made.base.path, moved)
    model, words = load_policy(made.trained, trainable=True), word_tokenizer([[Message("user", "x")]])
    one, other = (
        snapshot.save(Adapter.of(model), words, tmp_path / name, base=str(base))
        for name, base in (("one", made.base.path), ("other", moved))
    )
    named = [json.loads((Path(each.path) / snapshot.ADAPTED).read_text())[snapshot.BASE] for each in (one, other)]
    assert named == [made.base.path, "lab/small"] and one.version == other.version
    config = Path(other.path) / snapshot.ADAPTED
    config.write_text(config.read_text().replace('"r": ', '"r": 1'))
    assert snapshot.of(other.path, "", str(moved)).version != other.version  # all else in it counts
    if fourbit.FourBit.read(one.path) is None:
        alone = AutoPeftModelForCausalLM.from_pretrained(one.path)
        assert (logits(alone) - logits(model)).abs().max() < 1e-5


def test_an_adapter_on_an_adapter_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="is an adapter already"):
        LoRA().create(made.trained, tmp_path / "second", 0)


# --- merging
# ------------------------------------------------------------------------------------------------------------


def test_the_merged_model_is_the_adapter_on_the_full_base(made, tmp_path):
    whole = merge(made.trained, tmp_path / "merged")
    full = in_full(made.trained, tmp_path / "adapter")
    assert whole.base is None and not (Path(whole.path) / "adapter_config.json").exists()
    assert (logits(load_model(whole.path)) - logits(load_policy(full))).abs().max() < 1e-5
    assert contents(made.base.path) == made.before


def in_full(adapter, folder):
    """The same adapter on its base in full precision."""
    shutil.copytree(adapter.path, folder, ignore=shutil.ignore_patterns(fourbit.FILE))
    return snapshot.of(folder, "full", adapter.base)


@pytest.mark.parametrize("name", ["tied", "gpt2"])
def test_adapters_on_other_architectures_are_merged_exactly_too(name, tmp_path):
    base = base_in(tmp_path, name)
    fresh = LoRA(r=4, alpha=16).create(base, tmp_path / "fresh", 0)
    learner = LightningLearner(FilteredBC(), cpu(), AdamW(lr=1e-2), batch_utterances=4)
    trained, _ = learner.learn(samples(), fresh, tmp_path / "learn", seed=0, name="iter_001")
    adapted, whole = logits(load_policy(trained)), logits(load_model(merge(trained, tmp_path / "merged").path))
    assert (adapted - logits(load_model(base.path))).abs().max() > 0.05
    assert (adapted - whole).abs().max() < 1e-5


# --- 4 bits
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("double", [True, False])
def test_the_base_is_stored_as_nf4_in_the_dtype_that_sharding_needs(tmp_path, dtype, double):
    base = base_in(tmp_path)
    adapter = QLoRA(r=4, alpha=16, double=double).create(base, tmp_path / "adapter", 0)
    model = load_policy(adapter, dtype).get_base_model()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(layers) == 2 * 7 and not any("lm_head" in name for name in layers)  # all linear layers but the head
    whole = dict(load_model(base.path).named_parameters())
    for name, layer in layers.items():
        state = layer.weight.quant_state
        assert (layer.weight.quant_type, state.nested, state.blocksize) == ("nf4", double, 64)
        assert layer.weight.dtype == layer.quant_storage == getattr(torch, dtype)
        weight = whole[name.replace(".base_layer", "") + ".weight"]
        restored = dequantize_4bit(layer.weight.data, state).float()
        assert 0.07 < (restored - weight).norm() / weight.norm() < 0.12  # 0.092 for a Gaussian
    assert {each.dtype for each in model.parameters()} == {getattr(torch, dtype)}


def gradients(adapter, after_play):
    """Of the adapter's tensors, on a model that has or has not played before."""
    model = load_policy(adapter, trainable=True)
    if after_play:
        logits(model)
    model.train()
    torch.nn.functional.cross_entropy(model(input_ids=PROBE, use_cache=False).logits[0, :-1], PROBE[0, 1:]).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.requires_grad}


def worst(got, wanted):
    return max(((got[name] - wanted[name]).norm() / wanted[name].norm().clamp(min=1e-12)).item() for name in wanted)


@pytest.fixture
def on_four_bits(tmp_path):
    """A trained-looking adapter (no factor is 0) on a 4-bit base."""
    fresh = KINDS["qlora"].create(base_in(tmp_path), tmp_path / "fresh", 0)
    model = load_policy(fresh, trainable=True)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".lora_B." in name:
                each.normal_(std=0.05, generator=draw)
    tokenizer = word_tokenizer([[Message("user", "x")]])
    return snapshot.save(Adapter.of(model), tokenizer, tmp_path / "adapter", "start", fresh.base)


def test_gradients_in_4_bits_are_the_same_after_the_model_has_played(on_four_bits):
    """bitsandbytes packs a layer's weights anew at the first forward without gradient, where the processor has
    AVX512-BF16."""
    fresh, after = (gradients(on_four_bits, played) for played in (False, True))
    assert all(torch.equal(after[name], fresh[name]) for name in fresh)


@pytest.mark.skipif(
    not has_avx512bf16(), reason="this processor has no AVX512-BF16: the library's fault does not show on it"
)
def test_without_the_guard_they_would_not_be(on_four_bits, monkeypatch):
    wanted = gradients(on_four_bits, False)
    settle = fourbit._settle

    def unguarded(module, dtype):
        settle(module, dtype)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True

    monkeypatch.setattr(fourbit, "_settle", unguarded)
    assert worst(gradients(on_four_bits, False), wanted) < 1e-6  # all is well before the first game
    assert worst(gradients(on_four_bits, True), wanted) > 0.1


def test_the_guard_holds_on_processors_that_would_pack(on_four_bits, monkeypatch):
    monkeypatch.setattr(bnb, "has_avx512bf16", lambda: True)
    layers = [module for module in load_policy(on_four_bits).modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7 and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_merge_after_play_in_4_bits_is_right(on_four_bits, tmp_path):
    played = load_policy(on_four_bits)
    logits(played)
    whole = merge(on_four_bits, tmp_path / "merged")
    full = in_full(on_four_bits, tmp_path / "in_full")
    assert (logits(load_model(whole.path)) - logits(load_policy(full))).abs().max() < 1e-5


# --- packed rows
# --------------------------------------------------------------------------------------------------------


def one_row_each(model, streams):
    """The slow reference: every stream through the model's own forward, alone."""
    values = []
    for sample in streams:
        ids_T = torch.tensor(sample.token_ids)
        logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0].float()
        values.append(logits_TV[:-1].log_softmax(-1).gather(1, ids_T[1:, None])[sample.utterances[0].start - 1 :, 0])
    return torch.cat(values)


@pytest.mark.parametrize("paths", [False, True], ids=["explicit mask", "along paths"])
def test_packed_rows_do_not_see_each_other_on_adapted_and_4_bit_models(made, paths):
    model = load_policy(made.trained, trainable=True)
    policy, streams = Policy(model, head_chunk=7).train(), samples(6, seed=1)
    expected = one_row_each(model, streams)
    wanted = trained_gradients(model, expected)
    if paths:
        policy.use_path_attention()
    check_packable(policy)
    assert policy.packable
    (micro,) = pack(streams, [[n] for n in range(len(streams))], Budget(10**6, 10**6))
    batch = collate(streams, micro, supervised(streams))
    assert len(batch.tokens_BT) == 1 and batch.tokens_BT.numel() < sum(len(each.token_ids) for each in streams)
    values = torch.zeros(len(expected)).index_put((batch.token_N,), policy(batch))
    assert (values - expected).abs().max() < 1e-4
    got = trained_gradients(model, values)
    assert got.keys() == wanted.keys() and worst(got, wanted) < 1e-4
    batch.last_BT.fill_(batch.tokens_BT.shape[1] - 1)  # every row sees all before it
    if not paths:
        with torch.no_grad():
            assert (policy(batch) - expected[batch.token_N]).abs().max() > 1e-2


def test_in_mixed_precision_what_blocks_pass_on_is_in_half_precision(made):
    """Autocast passes 4-bit layers by: given float32, they answer in float32, and so does every block from there on."""
    hardware = cpu()
    hardware.precision = "bf16-mixed"
    policy, streams, met = load(made.trained, hardware), samples(6, seed=1), []
    for block in blocks(policy.causal_lm):
        block.register_forward_hook(lambda _, given, made: met.append(made.dtype))
    (micro,) = pack(streams, [[n] for n in range(len(streams))], Budget(10**6, 10**6))
    with torch.autocast("cpu", torch.bfloat16):
        policy(collate(streams, micro, supervised(streams)))
    assert met == 2 * [torch.bfloat16]


def trained_gradients(model, values):
    model.zero_grad()
    (values * torch.linspace(0.5, 1.5, len(values))).mean().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


# --- play
# -----------------------------------------------------------------------------------------------------------------


def test_adapters_that_share_a_base_in_play_take_turns(made):
    alone = {each.version: logits(load_policy(each)) for each in (made.fresh, made.trained)}
    bases = Bases("float32", "cpu")
    loaded = {each.version: bases.load(each) for each in (made.fresh, made.trained)}
    models = [model for model, _ in loaded.values()]
    assert models[0] is models[1]  # one base in memory
    for version in (made.trained.version, made.fresh.version, made.trained.version):
        model, use = loaded[version]
        use()
        assert torch.equal(logits(model), alone[version])
    bases.unload(made.trained.version)
    model, use = loaded[made.fresh.version]
    use()
    assert torch.equal(logits(model), alone[made.fresh.version])


# --- what is refused
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "targets", "told"),
    [
        (
            "llama",
            ["qproj"],
            r"names qproj, but .* are down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj$",
        ),
        ("llama", ["q_proj", "vproj"], "names vproj, but"),  # peft would adapt q_proj alone and say nothing
        ("llama", ["embed_tokens"], "names embed_tokens, but"),
        ("llama", [], "names nothing, but"),
        ("tied", ["lm_head"], "names lm_head, but .*, not the head, which shares its weights with the embedding"),
    ],
)
def test_B08_targets_that_the_base_does_not_have_are_told(tmp_path, name, targets, told):
    with pytest.raises(InputError, match=told):
        LoRA(targets=targets).create(base_in(tmp_path, name), tmp_path / "adapter", 0)
    assert not (tmp_path / "adapter").exists()


def test_targets_are_the_layers_that_are_adapted(tmp_path):
    made = LoRA(r=2, targets=["q_proj", "layers.1.mlp.up_proj", "lm_head"]).create(
        base_in(tmp_path), tmp_path / "adapter", 0
    )
    names = {
        name.partition(".lora_")[0].removeprefix("base_model.model.")
        for name in load_file(tmp_path / "adapter" / snapshot.ADAPTER)
    }
    assert names == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "lm_head",
    }
    assert torch.equal(logits(load_policy(made)), logits(load_model(made.base)))


@pytest.mark.parametrize("wrong", [{"r": 0}, {"alpha": 0}])
def test_a_rank_or_scale_that_does_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be at least 1 and alpha .* above 0"):
        LoRA(**wrong)


def test_a_storage_that_is_not_known_is_refused(tmp_path):
    (tmp_path / fourbit.FILE).write_text('{"type": "fp4", "double": true}\n')
    with pytest.raises(ValueError, match="expected type nf4"):
        fourbit.FourBit.read(tmp_path)
