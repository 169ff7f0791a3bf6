"""How likely a snapshot finds samples: against a plain forward pass of each sample alone."""

from pathlib import Path

import pytest
import torch
from parley.data.sample import Sample
from parley.learners.likelihood import logprobs, mean_logprob
from streams import Cpu, episodes, start
from transformers import AutoModelForCausalLM


def test_each_sample_gets_the_sum_of_its_supervised_tokens(tmp_path: Path) -> None:
    snapshot = start(tmp_path)
    samples = [*episodes(4), Sample("silent", (7, 8, 9), ())]
    model = AutoModelForCausalLM.from_pretrained(snapshot.path).eval()
    expected, tokens = [], 0
    for sample in samples:
        ids_1T = torch.tensor([sample.token_ids])
        with torch.no_grad():
            logprob_T = model(ids_1T).logits[0, :-1].log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0]
        spans = [logprob_T[each.start - 1 : each.end - 1] for each in sample.utterances]
        expected.append(sum(span.sum().item() for span in spans))
        tokens += sum(len(span) for span in spans)
    found = logprobs(samples, snapshot, Cpu())
    assert found == pytest.approx(expected, abs=1e-4) and found[-1] == 0.0
    assert mean_logprob(samples, snapshot, Cpu()) == pytest.approx(sum(expected) / tokens, abs=1e-5)
    with pytest.raises(ValueError, match="has a supervised token"):
        mean_logprob(samples[-1:], snapshot, Cpu())
