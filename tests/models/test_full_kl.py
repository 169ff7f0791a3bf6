"""The KL over the whole vocabulary: against plain logits, in chunks, under an adapter, and in a training step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parley.batches.packing import Budget, collate, pack, supervised
from parley.learners.checkpoint import Saving
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.models.adapter import LoRA
from parley.models.load import load_model, load_policy
from parley.models.policy import Beneath, Policy
from parley.objectives.policy_gradient import PolicyGradient
from parley.system.files import InputError
from streams import Cpu, episodes, start


def plain(model: Any, other: Any, samples: Any) -> torch.Tensor:
    """KL(model || other) and its logits' own log-softmax, one sample at a time."""
    found = []
    for sample in samples:
        ids = torch.tensor(sample.token_ids)[None]
        mine, theirs = (each(input_ids=ids).logits[0, :-1].log_softmax(-1) for each in (model, other))
        kl_T = (mine.exp() * (mine - theirs.detach())).sum(-1)
        found += [kl_T[each.start - 1 : each.end - 1] for each in sample.utterances]
    return torch.cat(found)


def batch_of(samples: Any) -> Any:
    (micro,) = pack(samples, [[at] for at in range(len(samples))], Budget(10**9, 10**9))
    return collate(samples, micro, supervised(samples))


@pytest.mark.parametrize("chunk", [5, 1024])
def test_it_is_that_of_plain_logits_with_its_gradient(chunk: int, tmp_path: Path) -> None:
    one, other, samples = start(tmp_path), start(tmp_path, "qwen2"), episodes(2)
    policy, fixed = Policy(load_model(one.path), head_chunk=chunk), Policy(load_model(other.path))
    batch = batch_of(samples)
    _, entropy_N, kl_N = policy(batch, True, fixed)
    model = load_model(one.path)
    expected_M = plain(model, load_model(other.path), samples)
    assert (
        torch.allclose(kl_N, expected_M[batch.token_N], atol=1e-4) and (kl_N > 0).all() and len(entropy_N) == len(kl_N)
    )
    kl_N.sum().backward()
    expected_M.sum().backward()
    for mine, theirs in zip(policy.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=2e-3)
    assert all(each.grad is None for each in fixed.parameters())


def test_of_an_adapter_it_is_taken_to_its_base(tmp_path: Path) -> None:
    base = start(tmp_path)
    policy = Policy(load_policy(LoRA(r=4).create(base, tmp_path / "adapter", 0), trainable=True), head_chunk=7)
    batch = batch_of(episodes(1))
    assert policy(batch, False, Beneath(policy))[1].abs().max() < 1e-5
    with torch.no_grad():
        for name, each in policy.named_parameters():
            if "lora_B" in name:
                each.add_(0.3 * torch.randn(each.shape, generator=torch.Generator().manual_seed(1)))
    _, kl_N = policy(batch, False, Beneath(policy))
    _, plain_N = policy(batch, False, Policy(load_model(base.path)))
    assert torch.allclose(kl_N, plain_N, atol=1e-5) and kl_N.max() > 1e-2


def learner(**changes: Any) -> LightningLearner:
    loss = PolicyGradient(against="self", kl_coef=1.0, kl="full")
    how = {"loss": loss, "hardware": Cpu(head_chunk=7), "optimizer": AdamW(lr=1e-2), "batch_utterances": 10**6}
    return LightningLearner(**{**how, "checkpoint_s": 1e9, "schedule": "constant", **changes})


def test_a_penalty_alone_pulls_to_the_reference(tmp_path: Path) -> None:
    first, other = start(tmp_path), start(tmp_path, "qwen2")
    samples = [replace(each, utterances=tuple(replace(u, reward=0.0) for u in each.utterances)) for each in episodes(2)]
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        session = learner().session(first, tmp_path / "out", seed=0, name="v", rounds=6, saving=saving, reference=other)
        kl = [session.step(samples, number)["kl"] for number in range(6)]
    assert kl == sorted(kl, reverse=True) and kl[-1] < 0.8 * kl[0]


def test_shards_have_no_whole_head(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kl=full needs whole weights"):
        learner(hardware=Cpu(strategy="fsdp"))
    with pytest.raises(ValueError, match="say towards=reference"):
        PolicyGradient(kl_coef=0.1, kl="full", towards="old")
