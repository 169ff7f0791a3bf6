"""Folders that are loaded, folders that are refused, and snapshots that keep their version."""

import shutil

import pytest
import torch
from parley.games.base import Message
from parley.models import snapshot
from parley.models.hub import Pretrained
from parley.models.load import load_model, load_policy, load_tokenizer
from parley.models.tiny import Tiny


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
