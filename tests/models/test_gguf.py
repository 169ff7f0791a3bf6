"""GGUF files become ordinary folders: the same function, once per machine, and never a damaged or changed one."""

import hashlib
import json
import os
import shutil
import socket
import sys

import pytest
import torch
from parley.games.base import Message
from parley.models.gguf import RECORD, Packaged, cache, converted
from parley.models.hub import Pretrained
from parley.models.load import load_model, load_tokenizer
from parley.models.tiny import TEMPLATE
from parley.system.files import InputError
from transformers import LlamaConfig, LlamaForCausalLM

gguf = pytest.importorskip("gguf")

WORDS = ["<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", *"abcdefgh", "ab"]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=64, eos_token_id=2)
    ).eval()


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary halves [x, y] of each head as llama.cpp stores them: x0, y0, x1, y1, …"""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write(model: LlamaForCausalLM, path, template: str | None = TEMPLATE, quantized: bool = False):
    """The model as llama.cpp's own converter would write it, with a byte-pair tokenizer of one-letter words; with
    `quantized` its matrices have 8 bits."""
    config, out = model.config, gguf.GGUFWriter(path, "llama")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_token_list(WORDS)
    out.add_token_types([3] * 6 + [1] * 9)  # control, normal
    out.add_token_merges(["a b"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    if template:
        out.add_chat_template(template)
    for name, tensor in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            tensor = interleaved(tensor, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantized and tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        out.add_tensor(renamed(name), gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def renamed(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole or name == "lm_head.weight":
        return whole.get(name, "output.weight")
    _, _, number, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{number}.{NAMES[part]}.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(llama(), tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_folder_is_the_same_function(file):
    made = converted(file)
    ids = torch.tensor([[1, 4, 6, 7, 8, 2, 5]])
    with torch.inference_mode():
        assert torch.allclose(load_model(made.path)(ids).logits, llama()(ids).logits, atol=1e-6)
    tokenizer = load_tokenizer(made.path)
    assert tokenizer.convert_ids_to_tokens(range(len(WORDS))) == WORDS and tokenizer.eos_token == "<|end|>"
    chat = [{"role": "user", "content": "c"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False).endswith("<|user|>c<|end|>")
    assert "quantization_config" not in json.loads((cache() / made.path / "config.json").read_text())


def test_a_quantized_file_in_a_hub_cache_is_a_model_path(tmp_path, monkeypatch):
    """Laid as `hf download` lays it, a link to a blob. No connection is made; an absent file is one line."""
    place = tmp_path / "hub" / "models--lab--small-GGUF"
    folder, blobs = place / "snapshots" / "0123", place / "blobs"
    folder.mkdir(parents=True), blobs.mkdir()
    shutil.move(write(llama(), tmp_path / "small.gguf", quantized=True), blobs / "4567")
    (folder / "small.Q8_0.gguf").symlink_to(blobs / "4567")
    monkeypatch.setattr(socket.socket, "connect", None)
    source = Pretrained(str(folder / "small.Q8_0.gguf"))
    found = source.create(tmp_path, [], 0)
    assert source.config().num_hidden_layers == 2 and found.version.startswith("small.Q8_0-")
    weight, near = (model.model.embed_tokens.weight for model in (llama(), load_model(found.path)))
    assert 0 < (weight - near).abs().max() < 0.01 * weight.abs().max()
    with pytest.raises(InputError, match=r"there is no file .*small\.Q4_0\.gguf$"):
        Pretrained(str(folder / "small.Q4_0.gguf")).create(tmp_path, [], 0)


def test_a_file_is_converted_once(file, monkeypatch):
    made = converted(file)
    monkeypatch.setattr("parley.models.gguf._read", None)
    assert converted(file) == made and made.version.startswith("small-")
    assert [path.name for path in cache().iterdir()] == [os.path.basename(made.path)]  # no draft is left


def test_a_changed_folder_is_refused(file):
    folder = cache() / converted(file).path
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match="was changed since it was converted"):
        converted(file)
    (folder / RECORD).write_text("[]")
    with pytest.raises(InputError, match=r"no readable gguf\.json"):
        converted(file)


def test_damaged_files_are_refused_and_leave_nothing(file, tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(file.read_bytes()[:3000])
    other = write(llama(), tmp_path / "base.gguf", template=None)
    for path, text in [(torn, "cannot be opened"), (other, "no chat template"), (tmp_path / "x.gguf", "there is no")]:
        with pytest.raises(InputError, match=text):
            converted(path)
    assert not cache().exists()


def test_a_package_carries_a_file(file, tmp_path, monkeypatch):
    folder = tmp_path / "carrier"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "small.gguf").write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)

    def source(sha256, package="carrier"):
        return Packaged(package, "small.gguf", sha256, "make smollm")

    with pytest.raises(InputError, match="another version"):
        source("0" * 64).create(tmp_path, [], 0)
    with pytest.raises(InputError, match="not installed: make smollm"):
        source("0" * 64, "no_such_carrier").create(tmp_path, [], 0)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert source(right).create(tmp_path, [[Message("user", "a")]], 0) == converted(file)
    assert "carrier" not in sys.modules
