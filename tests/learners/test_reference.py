"""The reference pass: what it computes, and when it is spared."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parley.data.packing import Budget
from parley.learners.reference import data_digest, reference
from parley.models.load import load_model
from parley.models.policy import Policy
from streams import episodes, start

CPU = torch.device("cpu")


def run(policy, samples, file: Path, model: str = "v1", budget: Budget = Budget(40, 120)):
    return reference(policy, samples, budget, file, model=model, device=CPU)


class Refuses(torch.nn.Module):
    """A policy that must not be asked."""

    def forward(self, batch):
        raise AssertionError("the reference pass was run again")


def test_it_gives_every_supervised_token_its_log_prob_in_sample_order(tmp_path):
    samples, model = episodes(5), load_model(start(tmp_path).path)
    expected = []
    for sample in samples:
        ids_T = torch.tensor(sample.token_ids)
        logprob_T = model(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]
        expected += [logprob_T[each.start - 1 : each.end - 1] for each in sample.utterances]
    for budget in (Budget(40, 120), Budget(10**6, 10**6), Budget(40, 120, trees=False)):
        values = run(Policy(model), samples, tmp_path / f"{budget}.safetensors", budget=budget)
        assert values.dtype == torch.float32 and not values.requires_grad
        assert (values - torch.cat(expected)).abs().max() < 1e-5


def test_it_is_spared_only_for_the_same_model_and_samples(tmp_path):
    samples, policy, file = episodes(2), Policy(load_model(start(tmp_path).path)), tmp_path / "kept" / "reference.safetensors"
    values = run(policy, samples, file)
    assert torch.equal(run(Refuses(), samples, file), values)
    moved = [replace(samples[0], utterances=(replace(samples[0].utterances[0], start=14),)), *samples[1:]]
    for given, model in ((samples, "v2"), (moved, "v1"), (samples[1:], "v1")):
        with pytest.raises(AssertionError, match="run again"):
            run(Refuses(), given, file, model)
    assert torch.equal(run(Refuses(), samples, file), values)  # a pass that failed leaves the file as it was


def test_the_digest_sees_tokens_spans_numbers_and_groups():
    samples = episodes(2)
    first = samples[0]
    others = [
        replace(first, token_ids=(*first.token_ids[:-1], 9)),
        replace(first, group="another"),
        replace(first, utterances=(replace(first.utterances[0], reward=0.125),)),
        replace(first, utterances=(replace(first.utterances[0], side=1),)),
    ]
    digests = {data_digest(samples), *(data_digest([other, *samples[1:]]) for other in others)}
    assert len(digests) == 5
    assert data_digest(episodes(2)) == data_digest(samples)
