"""Weights in training go into a backend that plays on: its replies are those of a fresh load, and no prefix is old."""

from dataclasses import replace

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.backends.openai import OpenAIBackend, served
from parley.models import snapshot
from parley.models.adapter import LoRA, writable
from parley.models.load import load_model, load_policy, load_tokenizer
from parley.play.player import Sampling
from parley.system.files import InputError
from peft import get_peft_model_state_dict
from test_hf import answer, folder, prompts  # noqa: F401  # `folder` is a fixture

KINDS = ("whole", "tied", "adapter")


@pytest.fixture(params=KINDS)
def policy(request, folder, tmp_path):  # noqa: F811
    """A snapshot and a learner's model of it: all weights, all weights with a tied head, or an adapter."""
    start = folder("llama")
    if request.param == "tied":
        model = load_model(start.path)
        model.config.tie_word_embeddings = True
        model.tie_weights()
        start = snapshot.save(model, load_tokenizer(start.path), tmp_path / "tied", "tied")
    if request.param == "adapter":
        start = LoRA(r=2, alpha=64).create(start, tmp_path / "adapter", 0)
    return start, load_policy(start, trainable=True)


def weights(model):
    """What a learner hands over: parameters by their Hugging Face names, or an adapter's by peft's."""
    return get_peft_model_state_dict(model) if hasattr(model, "peft_config") else dict(model.named_parameters())


def train(model, seed):
    """Changes every weight that is trained, in place, as an optimiser does."""
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.1)


def fresh(model, start, path):
    """A backend that has just loaded the model from a folder."""
    base = start.base or start.path
    backend = HFBackend(max_batch=8)
    saved = snapshot.save(writable(model), load_tokenizer(base), path, "fresh", start.base)
    backend.load(saved)
    return backend, saved.version


def ask(backend, asked, version):
    done = answer(backend, [replace(prompt, policy=version) for prompt in asked])
    assert {each.policy for each in done.values()} == {version}
    return {id: (each.token_ids, each.logprobs) for id, each in done.items()}


def test_replies_after_an_update_are_those_of_a_fresh_load_and_streams_go_on(policy, tmp_path):
    start, model = policy
    backend, asked, old = HFBackend(max_batch=8), prompts(8, 3), start.version
    backend.load(start)
    first = ask(backend, asked, old)
    for round in range(3):
        train(model, round)
        new = f"{start.version}+r{round + 1}"
        backend.update(old, new, weights(model).items())
        other, version = fresh(model, start, tmp_path / str(round))
        # a stream goes on: what the old weights read of it must be read anew
        asked = [replace(p, id=f"{p.id}+", token_ids=(*p.token_ids, *first[p.id][0], 8 + round, 9)) for p in asked]
        second, wanted = ask(backend, asked, new), ask(other, asked, version)
        assert second == wanted
        with pytest.raises(ValueError, match="call load"):
            backend.submit([replace(asked[0], policy=old)])
        first, old = second, new


def test_tensors_of_one_form_are_shared_and_others_copied(policy):
    start, model = policy
    backend, half = HFBackend(max_batch=8), HFBackend(max_batch=8, dtype="bfloat16")
    for each in (backend, half):
        each.load(start)
        each.update(start.version, "new", weights(model).items())
    mine = {tensor.data_ptr() for tensor in weights(model).values()}
    theirs = [{tensor.data_ptr() for tensor in _tensors(each) if not tensor.is_meta} & mine for each in (backend, half)]
    assert theirs == [mine, set()]


def _tensors(backend):
    return [tensor for pool in backend._pools.values() for tensor in pool.model.parameters()]


def test_one_base_serves_two_learners_and_the_backend(folder, tmp_path):  # noqa: F811
    """The base's weights may come with an adapter's; two adapters keep their own."""
    base = folder("llama")
    starts = [LoRA(r=2, alpha=64).create(base, tmp_path / f"a{seed}", seed) for seed in (0, 1)]
    models = [load_policy(start, trainable=True) for start in starts]
    frozen = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in models[0].get_base_model().named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    backend, asked = HFBackend(max_batch=8), prompts(6, 5)
    for start in starts:
        backend.load(start)
    for number, (start, model) in enumerate(zip(starts, models, strict=True)):
        train(model, number)
        backend.update(start.version, f"new{number}", [*frozen.items(), *weights(model).items()])
    shared = {tensor.data_ptr() for tensor in _tensors(backend)}
    assert {tensor.data_ptr() for tensor in frozen.values()} <= shared
    for number, (start, model) in enumerate(zip(starts, models, strict=True)):
        other, version = fresh(model, start, tmp_path / f"saved{number}")
        assert ask(backend, asked, f"new{number}") == ask(other, asked, version)
    backend.unload("new0")
    assert ask(backend, asked, "new1") == ask(other, asked, version)


def test_keys_and_values_of_old_weights_are_given_back(policy):
    start, model = policy
    backend = HFBackend(max_batch=8)
    backend.load(start)
    ask(backend, prompts(8), start.version)
    (pool,) = backend._pools.values()
    assert pool.kept.streams and pool.kept.bytes
    backend.update(start.version, "new", weights(model).items())
    assert not pool.kept.streams and not pool.kept.bytes and not any(layer.live for layer in pool.slots.own)


def test_an_update_that_does_not_fit_is_refused(policy, folder):  # noqa: F811
    start, model = policy
    backend = HFBackend(max_batch=8)
    backend.load(start)
    backend.load(other := folder("llama", 1))
    given = weights(model)
    name = next(reversed(given))
    with pytest.raises(ValueError, match="'gone' cannot be updated: loaded are"):
        backend.update("gone", "new", given.items())
    with pytest.raises(ValueError, match="which is another policy"):
        backend.update(start.version, other.version, given.items())
    backend.submit(replace(prompt, policy=start.version) for prompt in prompts(2, 0, Sampling(max_tokens=3)))
    with pytest.raises(ValueError, match="open prompts"):
        backend.update(start.version, "new", given.items())
    backend.cancel([prompt.id for prompt in prompts(2)])
    for wrong, told in (
        ({key: given[key] for key in given if key != name}, rf"lack 1 of the model, such as {name}"),
        (given | {"other.weight": given[name]}, "hold other.weight, which the model does not have"),
        (given | {name: given[name][:1]}, f"{name} has shape"),
    ):
        with pytest.raises(ValueError, match=told):
            backend.update(start.version, start.version, wrong.items())


def test_a_server_takes_no_weights():
    backend = OpenAIBackend(url="http://127.0.0.1:1")
    backend.load(served("its"))
    with pytest.raises(InputError, match="accepts no weights"):
        backend.update("its", "new", [])
    backend.close()
