"""Damaged model folders and foreign templates, drawn by a seed: each is loaded whole, or named with the reason."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parley.games.base import Message
from parley.models.load import load_model, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.tiny import Tiny
from parley.models.trial import TURNS, fault
from parley.system.files import InputError
from safetensors.torch import load_file, save_file

from costs import Costs

TRIES = int(os.environ.get("PARLEY_STRESS", 12))
SEED = int(os.environ.get("PARLEY_SEED", 0))
JUNK = (None, 0, -1, 1, 2**31, 2**63, 1e308, True, "", "x", "llama", [], {}, [1], {"a": 1}, "\ud800", "../x", 0.5)
CHAT = [(Message("user", "a b c d"), Message("assistant", "b c"))] * 9


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    return Path(Tiny(width=32, heads=2, layers=1).create(folder, CHAT, 0).path)


def cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def noise(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 50))):
        data[draw.randrange(min(len(data), draw.choice((40, 10**9))))] = draw.randrange(256)
    path.write_bytes(data)


def word(path: Path, draw: random.Random) -> None:
    """Another value somewhere in a file of JSON, at any depth."""
    whole = value = json.loads(path.read_text())
    while isinstance(value, (dict, list)) and value:
        at: Any = draw.choice([*value] if isinstance(value, dict) else range(len(value)))
        if draw.random() < 0.4 or not (isinstance(value[at], (dict, list)) and value[at]):
            value[at] = draw.choice(JUNK)
            break
        value = value[at]
    path.write_text(json.dumps(whole))


def weights(path: Path, draw: random.Random) -> None:
    tensors = load_file(path)
    name = draw.choice([*tensors])
    change: Callable[[], Any] = draw.choice(
        [
            lambda: tensors.pop(name),
            lambda: tensors.update({name: tensors[name][..., :1].contiguous()}),
            lambda: tensors.update({name: tensors[name] * draw.choice([float("nan"), float("inf")])}),
            lambda: tensors.update({f"{name}.more": torch.ones(2)}),
            lambda: tensors.update({name: tensors[name].double()}),
            lambda: tensors.update({name: torch.zeros(0)}),
        ]
    )
    change()
    save_file(tensors, path, {"format": "pt"})


def damaged(folder: Path, draw: random.Random) -> str:
    """Damages one file; what was done to it, in words."""
    path = draw.choice(sorted(each for each in folder.iterdir() if each.is_file()))
    ways = [
        cut,
        noise,
        *([word] * 3 if path.suffix == ".json" else []),
        *([weights] * 3 if "model.s" in path.name else []),
    ]
    way = draw.choice(ways)
    way(path, draw)
    return f"{way.__name__} {path.name}"


def used(folder: Path) -> None:
    """Loads all of a folder and uses it; what is loaded works."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    renderer = Renderer.load(folder)
    ids = renderer.encode([Message("user", "a b")])
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits
    assert logits.shape[:2] == (1, len(ids)) and bool(torch.isfinite(logits).all())
    assert len(tokenizer) <= logits.shape[2]


def test_a_damaged_model_folder_works_or_is_named(sound: Path, tmp_path: Path) -> None:
    costs = Costs(lambda: used(sound))
    draw, named = random.Random(f"{SEED} folders"), 0
    for number in range(TRIES):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        done = damaged(folder, draw)
        try:
            with costs.bounded((number, done)):
                used(folder)
        except InputError as error:
            assert str(folder) in str(error) and len(str(error)) < 1500, (number, done, error)
            named += 1
        except Exception as error:
            raise AssertionError(f"try {number} of seed {SEED}: {done}") from error
        shutil.rmtree(folder)
    assert named > TRIES / 4


PIECES = (
    "{{ m.content }}", "{{ m['role'] }}", "{% if m.role == 'user' %}[U]{% endif %}", "{{ bos_token }}",
    "{% for n in messages %}{{ n.content }}{% endfor %}", "{{ m.content | trim | upper }}", "{{ loop.index }}",
    "{{ m.content[::-1] }}", "{{ messages | length }}", "{{ m.nothing.at_all }}", "{{ m.content | tojson }}",
    "{{ raise_exception('no') }}", "{{ [1, 2] | random }}", "{{ range(9) | join }}", "{{ m | items | list }}",
    "{% set x = namespace(a=1) %}{{ x.a }}", "{{ strftime_now('%d') }}", "{{ m.content * 3 }}", "{{ ''.__class__ }}",
    "{{ cycler.__init__.__globals__ }}", "{{ m.content.split() | first }}", "{{ 1 / 0 }}", "{% break %}",
)  # fmt: skip


def test_a_templates_trial_says_only_what_is_wrong_with_it() -> None:
    """By the pieces alone it is known whether a template draws; and no template is refused for another reason."""
    draw = random.Random(f"{SEED} templates")
    for number in range(TRIES * 4):
        chosen = draw.choices(PIECES, k=draw.randint(1, 5))
        source = "{% for m in messages %}" + "".join(chosen) + "{% endfor %}"
        told = fault(source, {"bos_token": "<s>", "eos_token": "</s>"})
        assert ("draws at random" in told) == any("random" in piece for piece in chosen), (number, source, told)
        assert told == "" or "draws at random" in told, (number, source, told)
    assert TURNS >= 24
