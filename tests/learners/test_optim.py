"""Optimisers from configuration, and learning-rate schedules."""

import pytest
import torch
from parley.learners import muon
from parley.learners.optim import AdamW, Muon, RMSProp, factor
from streams import MODELS
from torch import nn


def names_of(optimizer, model):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_muon_takes_the_blocks_matrices_and_adamw_the_rest(name):
    model = MODELS[name]()
    matrices, adamw = Muon(lr=0.01, adamw_lr=2e-3, momentum=0.9, weight_decay=0.05, betas=[0.8, 0.9]).build(
        model.named_parameters()
    )
    assert isinstance(matrices, muon.Muon) and isinstance(adamw, torch.optim.AdamW)
    hidden, rest = names_of(matrices, model), names_of(adamw, model)
    assert hidden | rest == {each for each, _ in model.named_parameters()} and not hidden & rest
    assert hidden and all(("layers." in each or ".h." in each) and each.endswith("weight") for each in hidden)
    assert {parameter.ndim for group in matrices.param_groups for parameter in group["params"]} == {2}
    assert any("embed" in each or "wte" in each for each in rest) and any(
        "norm" in each or "ln_" in each for each in rest
    )
    assert (
        matrices.defaults["lr"] == 0.01
        and matrices.defaults["momentum"] == 0.9
        and matrices.defaults["weight_decay"] == 0.05
    )
    assert (
        adamw.defaults["lr"] == 2e-3 and adamw.defaults["betas"] == (0.8, 0.9) and adamw.defaults["weight_decay"] == 0
    )
    assert Muon(adamw_weight_decay=0.3).build(model.named_parameters())[1].defaults["weight_decay"] == 0.3


def test_matrices_that_are_orthogonalised_together_move_as_one_by_one(monkeypatch):
    monkeypatch.setattr(muon, "TOGETHER", 3 * 8 * 16)  # three of some, one of others
    draw = torch.Generator().manual_seed(0)
    shapes = [(8, 16)] * 5 + [(16, 8)] * 2 + [(8, 8)] * 4 + [(1, 6), (40, 30)]
    values = [torch.randn(shape, generator=draw) for shape in shapes]
    ours, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    pair = muon.Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for one, other in zip(ours[1:], theirs[1:], strict=True):  # the first has no gradient
            one.grad = torch.randn(one.shape, generator=draw)
            other.grad = one.grad.clone()
        for each in pair:
            each.step()
    for one, other, value in zip(ours, theirs, values, strict=True):
        assert torch.allclose(one, other, atol=3e-4), one.shape
        assert torch.equal(one, value) == (one is ours[0])
    assert pair[0].state_dict()["state"].keys() == pair[1].state_dict()["state"].keys()


def test_muon_without_blocks_is_refused():
    with pytest.raises(ValueError, match="use AdamW"):
        Muon().build(nn.Linear(3, 3).named_parameters())


@pytest.mark.parametrize("config", [AdamW(lr=1e-3, weight_decay=0.1), RMSProp(lr=1e-3, weight_decay=0.1)])
def test_weight_decay_spares_norms_and_biases_and_frozen_parameters_are_left_out(config):
    model = MODELS["gpt2"]()
    model.transformer.wpe.requires_grad_(False)
    (optimizer,) = config.build(model.named_parameters())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay.get(id(parameter)) == (None if "wpe" in name else 0.1 if parameter.ndim == 2 else 0.0)


def test_nothing_to_train_is_an_error():
    model = nn.Linear(2, 2).requires_grad_(False)
    for config in (AdamW(lr=1e-3), RMSProp(lr=1e-3)):
        with pytest.raises(ValueError, match="nothing to optimise"):
            config.build(model.named_parameters())


def test_first_steps_by_hand():
    """From weight 1 with gradient 3. RMSProp: 1 - lr * 3 / (sqrt(0.01 * 9) + eps); AdamW: 1 - lr, whatever the
    gradient."""
    for config, expected in (
        (RMSProp(lr=0.01), 1 - 0.01 * 3 / 0.3),
        (AdamW(lr=0.01), 0.99),
        (AdamW(lr=0.01, weight_decay=0.5), 0.985),
    ):
        weight = nn.Parameter(torch.ones(1, 1))
        (optimizer,) = config.build([("layer.weight", weight)])
        weight.grad = torch.full((1, 1), 3.0)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_schedules_by_hand():
    assert [factor(name, 0.0, 5, 10, 0.2) for name in ("linear", "cosine", "constant")] == pytest.approx(
        [0.6, 0.6, 1.0]
    )
    assert factor("linear", 0.2, 0, 10, 0.2) == 0.5 and factor("cosine", 0.2, 2, 10, 0.2) == 1.0
    linear = [factor("linear", 0.2, step, 10) for step in range(10)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert [factor("constant", 0.25, step, 4) for step in range(4)] == [1.0, 1.0, 1.0, 1.0]
    assert [factor("constant", 0.5, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    cosine = [factor("cosine", 0.0, step, 4) for step in range(4)]
    assert cosine == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert factor("linear", 0.0, 0, 1) == 1.0 and factor("linear", 1.0, 0, 1) == 1.0
    with pytest.raises(ValueError, match="constant, linear or cosine"):
        factor("step", 0.0, 0, 4)
