"""The tiny model: an ordinary folder with a word-level tokenizer, the same for the same seed."""

import pytest
import torch
from parley.games.base import Message
from parley.models import snapshot
from parley.models.load import load_model, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.tiny import ROLES, SPECIAL, Tiny, word_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

CHATS = [
    [
        Message("system", "books 3 hats 1 balls 2"),
        Message("user", "[message] i take 2 hats"),
        Message("assistant", "[propose] books 3 hats 0"),
    ],
    [Message("user", "[message] i take 1 hats , ok ?"), Message("assistant", "[propose] rare 3 hats 0")],
]
SMALL = Tiny(width=32, heads=2, layers=1, mlp=64, context=128)


def test_a_folder_that_transformers_loads(tmp_path):
    made = SMALL.create(tmp_path / "m", CHATS, 1)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja"
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert model.config.vocab_size % 32 == 0 and model.config.vocab_size >= len(tokenizer)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert made == snapshot.of(tmp_path / "m", "tiny")


def test_weights_come_from_the_seed_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = SMALL.create(tmp_path / "a", CHATS, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert SMALL.create(tmp_path / "b", CHATS, 1).version == one.version
    assert SMALL.create(tmp_path / "c", CHATS, 2).version != one.version


def test_words_and_markers_are_tokens():
    tokenizer = word_tokenizer(CHATS)
    renderer = Renderer(tokenizer)
    chat = [
        Message("user", "[message] i take 2 hats"),
        Message("assistant", "[propose] books 3", "a.1"),
        Message("user", "ok"),
    ]
    ids = renderer.encode(chat)
    assert tokenizer.convert_ids_to_tokens(list(ids)) == [
        "<bos>", "<|user|>", "[message]", "i", "take", "2", "hats", "<|end|>", "<|assistant|>", "[propose]", "books",
        "3", "<|end|>",
        "<|user|>", "ok", "<|end|>", "<|assistant|>",
    ]  # fmt: skip
    assert renderer.stop_ids == {tokenizer.convert_tokens_to_ids("<|end|>")}


def test_text_survives():
    renderer = Renderer(word_tokenizer(CHATS))
    for chat in CHATS:
        for message in chat:
            ids = renderer.encode([Message("user", message.content)])
            assert renderer.text(ids) == message.content


def test_the_chat_template_has_the_prefix_property():
    renderer = Renderer(word_tokenizer(CHATS))
    chat = [*CHATS[0], Message("user", "ok ?"), Message("assistant", "hats 1")]
    for end in range(1, len(chat)):
        ids = renderer.encode(chat[:end])
        whole = renderer.encode(chat)
        assert ids[:-1] == whole[: len(ids) - 1]  # all but the generation prompt, which the next message may not want


def test_rare_words_are_unknown_and_order_is_fixed():
    tokenizer = word_tokenizer(CHATS, min_count=2)
    assert tokenizer.convert_tokens_to_ids("rare") == tokenizer.unk_token_id
    words = [tokenizer.convert_ids_to_tokens(i) for i in range(len(SPECIAL), len(tokenizer))]
    assert words == ["hats", "3", "0", "1", "2", "[message]", "[propose]", "books", "i", "take"]
    with pytest.raises(ValueError, match="no word occurs 9 times"):
        word_tokenizer(CHATS, min_count=9)


def test_what_must_not_be_sampled_is_named(tmp_path):
    SMALL.create(tmp_path / "m", CHATS, 1)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    never = set(model.generation_config.suppress_tokens)
    assert {tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<unk>", "<bos>", *ROLES)} <= never
    assert set(range(len(tokenizer), model.config.vocab_size)) <= never
    assert not never & {tokenizer.convert_tokens_to_ids(word) for word in ("<|end|>", "hats", "3")}


@pytest.mark.parametrize("sizes", [{"width": 100}, {"mlp": 100}, {"width": 96, "heads": 5}])
def test_sizes_that_four_bit_layers_cannot_take_are_refused(sizes):
    with pytest.raises(ValueError, match="multiple"):
        Tiny(**sizes)
