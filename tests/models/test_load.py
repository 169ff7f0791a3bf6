"""Folders that are loaded, folders that are refused, and snapshots that keep their version."""

import json
import re
import shutil

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.games.base import Message
from parley.models import snapshot
from parley.models.adapter import LoRA
from parley.models.bases import Bases
from parley.models.folders import INDEX
from parley.models.hub import Pretrained
from parley.models.load import load_model, load_policy, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.tiny import Tiny
from parley.play.player import Prompt
from parley.system.files import InputError
from safetensors.torch import load_file, save_file
from torch.nn import Linear
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(folder, [[Message("user", "a b c")]], 0)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "m")


def test_loads_in_eval_mode(made):
    model = load_model(made, "bfloat16")
    assert not model.training and model.dtype == torch.bfloat16
    assert load_tokenizer(made).chat_template


@pytest.mark.parametrize(
    ("damage", "load", "message"),
    [
        (lambda f: shutil.rmtree(f), load_model, "does not exist"),
        (lambda f: (f / "config.json").unlink(), load_model, "no config.json"),
        (lambda f: (f / "config.json").rename(f / "adapter_config.json"), load_model, "needs its base"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), load_model, "pickled weights only"),
        (lambda f: (f / "model.safetensors").unlink(), load_model, "no weights"),
        (
            lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
            load_tokenizer,
            "no tokenizer",
        ),
        (lambda f: (f / "chat_template.jinja").unlink(), load_tokenizer, "no chat template"),
    ],
)
def test_damaged_folders_are_refused(copy, damage, load, message):
    damage(copy)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(copy)


def test_unknown_dtype(made):
    with pytest.raises(ValueError, match="expected one of float32"):
        load_model(made, "float8")


def test_a_folder_is_a_model_source(made, tmp_path):
    assert Pretrained(str(made)).create(tmp_path / "unused", [], 0) == snapshot.of(made, "m")
    assert not (tmp_path / "unused").exists()


def test_a_folder_named_from_here_is_found_from_elsewhere(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.parent)
    found = Pretrained("m").create(tmp_path / "unused", [], 0)
    monkeypatch.chdir(tmp_path)
    assert found == snapshot.of(made, "m") and load_model(found.path)


def test_version_follows_the_content(made, copy):
    assert snapshot.of(copy).version == snapshot.of(made).version
    (copy / "training.log").write_text("not a part of the model")
    assert snapshot.digest(copy) == snapshot.digest(made)
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))
    assert snapshot.digest(copy) != snapshot.digest(made)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        snapshot.digest(made.parent)


def test_save_is_whole_and_never_overwrites(made, tmp_path):
    model, tokenizer = load_model(made), load_tokenizer(made)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1
    saved = snapshot.save(model, tokenizer, tmp_path / "deep" / "s", "it1")
    assert saved.version == f"it1-{snapshot.digest(saved.path)[:12]}" and [
        p.name for p in (tmp_path / "deep").iterdir()
    ] == ["s"]
    again = load_model(saved.path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)  # tied: written once, head included
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "deep" / "s").iterdir())
    assert snapshot.save(model, tokenizer, saved.path, "it1") == saved  # the same once more changes nothing
    with torch.no_grad():
        model.model.embed_tokens.weight += 1
    with pytest.raises(FileExistsError, match="never overwritten"):
        snapshot.save(model, tokenizer, saved.path)
    assert snapshot.of(saved.path, "it1") == saved


def test_a_failed_save_leaves_nothing(made, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        snapshot.save(load_model(made), Broken(), tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_an_adapter_stands_on_its_base(made, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(made), LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    policy = snapshot.of(tmp_path / "adapter", "lora", base=str(made))
    ids = torch.tensor([[2, 4, 7, 8, 6, 5]])
    with torch.inference_mode():
        assert torch.allclose(load_policy(policy)(ids).logits, adapted.eval()(ids).logits, atol=1e-6)
        assert not torch.allclose(load_policy(policy)(ids).logits, load_model(made)(ids).logits, atol=1e-3)
    assert policy.version != snapshot.of(tmp_path / "adapter", "lora").version
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors"):
        load_policy(snapshot.of(made, base=str(made)))


# --- what a folder may hold ------------------------------------------------------------------------------------------


def rewrite(folder, change):
    """The folder's weights after `change`."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def config(folder, **changes):
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | changes))


def without(*parts):
    return lambda tensors: {name: each for name, each in tensors.items() if not any(part in name for part in parts)}


A3 = {
    "half": (lambda f: rewrite(f, without("self_attn")), "4 weights are missing, such as model.layers.0.self_attn"),
    "more": (lambda f: rewrite(f, lambda t: t | {"model.extra": torch.ones(2)}), "belong to no layer, such as model.e"),
    "kind": (lambda f: config(f, model_type="qwen2"), "are missing, such as model.layers.0.self_attn.k_proj.bias"),
    "layers": (lambda f: config(f, num_hidden_layers=2), "are missing, such as model.layers.1"),
    "shape": (lambda f: config(f, intermediate_size=128), "wrong shape|mismatch"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "told"), A3.values(), ids=A3)
def test_A3_weights_are_never_made_up(copy, damage, told):
    damage(copy)
    with pytest.raises(InputError, match=told) as error:
        load_model(copy)
    assert str(copy) in str(error.value)


def test_A3_tied_weights_are_not_missing(made):
    assert "lm_head.weight" not in load_file(made / "model.safetensors") and load_model(made)


@pytest.mark.parametrize("name", ["lora_A", "lora_B"])
def test_A3_an_adapters_weights_are_never_made_up(made, tmp_path, name):
    adapter = LoRA(r=2).create(snapshot.of(made), tmp_path / "adapter", 0)
    file = tmp_path / "adapter" / snapshot.ADAPTER
    whole = load_file(file)
    gone = next(each for each in whole if name in each)
    for tensors, told in (
        ({each: whole[each] for each in whole if each != gone}, f"1 weights are missing, such as {gone}"),
        (whole | {f"{gone}.other": whole[gone] + 1}, "belong to no layer"),
        (whole | {gone: whole[gone] * float("nan")}, "NaN"),
    ):
        save_file(tensors, file)
        with pytest.raises(InputError, match=told):
            load_policy(adapter)
        with pytest.raises(InputError, match=told):
            bases = Bases("float32", "cpu")
            bases.load(LoRA(r=2).create(snapshot.of(made), tmp_path / f"{len(told)}", 1))
            bases.load(adapter)


def test_A4_a_changed_snapshot_is_not_restored(copy, made, tmp_path):
    kept = snapshot.of(copy, "it1")
    on = LoRA(r=2).create(snapshot.of(copy), tmp_path / "adapter", 0)
    served = snapshot.Snapshot("gpt", "", served="gpt")
    for each in (kept, on, served, snapshot.Snapshot("gone-123", str(tmp_path / "gone"))):
        assert snapshot.verify(each) == each
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    for each in (kept, on):
        with pytest.raises(InputError, match=f"was changed after the snapshot {each.version} was made"):
            snapshot.verify(each)


DAMAGED = {
    "json": (lambda f: (f / "config.json").write_text("{"), load_model),
    "list": (lambda f: (f / "config.json").write_text("[]"), load_model),
    "kind": (lambda f: config(f, model_type="nothing"), load_model),
    "encoder": (lambda f: config(f, model_type="clip"), load_model),
    "heads": (lambda f: config(f, num_attention_heads=0), load_model),
    "negative": (lambda f: config(f, hidden_size=-4), load_model),
    "words": (lambda f: config(f, hidden_size="big"), load_model),
    "many_layers": (lambda f: config(f, num_hidden_layers=10**9), load_model),
    "wide": (lambda f: config(f, vocab_size=10**12), load_model),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-40]), load_model),
    "noise": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), load_model),
    "nan": (lambda f: rewrite(f, lambda t: {name: each * float("nan") for name, each in t.items()}), load_model),
    "infinite": (lambda f: rewrite(f, lambda t: {name: each + float("inf") for name, each in t.items()}), load_model),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), load_tokenizer),
    "tokenizer_torn": (lambda f: (f / "tokenizer.json").write_text('{"version": '), load_tokenizer),
    "ids": (lambda f: config(f, vocab_size=4), load_tokenizer),
    "index": (lambda f: (f / INDEX).write_text("[3]"), load_model),
}  # fmt: skip


def index(folder, file):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": file}}))


@pytest.mark.parametrize(("damage", "load"), DAMAGED.values(), ids=DAMAGED)
def test_B08_model_folders_that_are_damaged_are_named_with_the_reason(copy, damage, load):
    damage(copy)
    with pytest.raises(InputError, match="") as error:
        load(copy)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"), [({"num_hidden_layers": 10**9}, "says 1000000000 layers"), ({"vocab_size": 10**9}, "describes")]
)
def test_B08_a_config_that_describes_far_more_than_the_files_hold_is_told_before_it_is_built(copy, change, told):
    config(copy, **change)
    with pytest.raises(InputError, match=told):
        load_model(copy)


def test_B08_layers_that_cannot_be_decoded_are_told_from_the_config_alone(copy):
    (copy / "model.safetensors").unlink()  # it is not looked at
    HFBackend.check(copy)
    linear = {"layer_types": ["linear_attention"], "model_type": "qwen3", "num_hidden_layers": 1}
    for stored in (linear, {"model_type": "mamba"}, {"model_type": "rwkv"}):
        (copy / "config.json").write_text(json.dumps(stored))
        with pytest.raises(InputError, match=r"cannot decode: use backend=vllm"):
            HFBackend.check(copy)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", [-1, True, "2", [2, -1], {"id": 2}, 2**40, 2.0])
def test_B08_an_end_that_is_no_token_is_refused(copy, name, value):  # -1 was the last token of the vocabulary
    path = copy / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {"eos_token_id": value}))
    with pytest.raises(InputError, match="eos_token_id"):
        Renderer.load(copy)


def test_B08_a_context_of_no_tokens_is_refused(copy):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": -64}))
    with pytest.raises(InputError, match="max_position_embeddings -64, expected at least 1 token"):
        Renderer.load(copy)


def test_B08_token_ids_above_the_embedding_are_refused(made):
    backend = HFBackend()
    backend.load(found := snapshot.of(made))
    with pytest.raises(ValueError, match="has the token id 1000000"):
        backend.submit([Prompt("m/a.1", "m/a", (), 0, token_ids=(7, 10**6), policy=found.version)])


@pytest.mark.parametrize(
    ("file", "told"),
    [("x.bin", "and no others"), ("../m/model.safetensors", "and no others"), ("other.safetensors", "is missing")],
)
def test_B10_an_index_names_safetensors_of_its_own_folder(copy, file, told):
    index(copy, file)
    with pytest.raises(InputError, match=rf"names '?{re.escape(file)}'?.*{told}"):
        load_model(copy)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_B10_the_attention_is_ours_whatever_the_config_names(copy, key):
    config(copy, **{key: "somebody/kernel"})
    model = load_model(copy)
    assert model.config._attn_implementation == "sdpa"


def test_B15_a_folder_with_several_templates_can_be_read_and_its_digest_sees_them(made, tmp_path):
    tokenizer = load_tokenizer(made)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }}"}
    saved = snapshot.save(load_model(made), tokenizer, tmp_path / "s")
    (inner,) = (path for path in (tmp_path / "s").iterdir() if path.is_dir())
    (template,) = inner.iterdir()
    assert inner.stat().st_mode & 0o777 == 0o755 and template.stat().st_mode & 0o777 == 0o644
    template.write_text("{{ bos_token }}")
    assert snapshot.of(saved.path) != saved


def test_A18_what_an_adapter_reaches_is_told(made, tmp_path):
    line = LoRA(r=2).reach(snapshot.of(made))
    total = sum(each.numel() for each in load_model(made).parameters())
    linear = sum(each.weight.numel() for each in load_model(made).model.layers.modules() if isinstance(each, Linear))
    assert f"changes 7 layers, {linear / total:.1%} of the weights" in line and "embed_tokens.weight" in line
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    mixture = GraniteMoeForCausalLM(GraniteMoeConfig(vocab_size=32, num_local_experts=4, **sizes))
    found = snapshot.save(mixture, load_tokenizer(made), tmp_path / "mixture")
    assert re.search(r"changes 4 layers, .*experts.gate_up_proj [56]\d\.\d%", LoRA(r=2).reach(found))
