"""The reference pass: what it computes, and when it is spared."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from parley.batches.packing import Budget
from parley.data.sample import Sample
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.learners.reference import data_digest, forward, recorded
from parley.models.load import load_model
from parley.models.policy import Policy
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.offline_po import OfflinePO
from parley.system.files import InputError
from streams import Cpu, episodes, start

CPU = torch.device("cpu")


def run(policy, samples, budget: Budget = Budget(40, 120)):
    return forward(policy, samples, budget, CPU)


def test_it_gives_every_supervised_token_its_log_prob_in_sample_order(tmp_path):
    samples, model = episodes(5), load_model(start(tmp_path).path)
    expected = []
    for sample in samples:
        ids_T = torch.tensor(sample.token_ids)
        logprob_T = model(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]
        expected += [logprob_T[each.start - 1 : each.end - 1] for each in sample.utterances]
    for budget in (Budget(40, 120), Budget(10**6, 10**6), Budget(40, 120, trees=False)):
        values = run(Policy(model), samples, budget=budget)
        assert values.dtype == torch.float32 and not values.requires_grad
        assert (values - torch.cat(expected)).abs().max() < 1e-5


def test_its_rows_have_the_lengths_that_the_budget_asks_for(tmp_path):
    samples, policy, widths = episodes(5), Policy(load_model(start(tmp_path).path)), []
    policy.register_forward_pre_hook(
        lambda _, given: None if given[0].causal else widths.append(given[0].tokens_BT.shape[1])
    )
    plain = run(policy, samples)
    assert any(width % 16 for width in widths)
    widths.clear()
    even = run(policy, samples, budget=Budget(40, 120, multiple=16))
    assert widths and not any(width % 16 for width in widths)
    assert (even - plain).abs().max() < 1e-5


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


# --- what the sampler recorded
# ------------------------------------------------------------------------------------------


def played(count: int, values_M: torch.Tensor, version: str = "v1") -> list[Sample]:
    """`episodes(count)` as if `version` had sampled all but the imitation rows, and recorded `values_M` (7 digits) on
    the way."""
    samples = episodes(count)
    parts = values_M.split([sum(each.end - each.start for each in sample.utterances) for sample in samples])
    recorded_as = [tuple(round(value, 7) for value in part.tolist()) for part in parts]
    return [
        sample if sample.id.endswith("sft") else replace(sample, policy=version, logprobs=own)
        for sample, own in zip(samples, recorded_as, strict=True)
    ]


class Counts(torch.nn.Module):
    """A policy that counts the supervised tokens it is asked for."""

    def __init__(self, policy) -> None:
        super().__init__()
        self.policy, self.asked = policy, 0

    def forward(self, batch):
        self.asked += len(batch.target_N)
        return self.policy(batch)


def from_record(policy, samples, tolerance: float = 1e-4):
    return recorded(policy, samples, Budget(40, 120), CPU, model="v1", tolerance=tolerance)


def test_what_was_recorded_serves_and_only_demonstrations_get_a_pass(tmp_path):
    count = 40
    policy = Policy(load_model(start(tmp_path).path))
    values = run(policy, episodes(count))
    samples, counts = played(count, values), Counts(policy)
    got = from_record(counts, samples)
    assert got.dtype == torch.float32 and (got - values).abs().max() < 1e-5
    demonstrated = sum(each.end - each.start for sample in samples if not sample.policy for each in sample.utterances)
    checked = counts.asked - demonstrated
    assert 0 < checked < (len(values) - demonstrated) / 4 and demonstrated == 18 * count
    own = [value for sample in samples if sample.policy for value in sample.logprobs]
    kept = torch.cat(
        [torch.full((sum(e.end - e.start for e in sample.utterances),), bool(sample.policy)) for sample in samples]
    )
    assert torch.equal(got[kept], torch.tensor(own))  # the record itself, not a pass


def test_a_record_that_cannot_be_the_references_own_is_refused(tmp_path):
    policy = Policy(load_model(start(tmp_path).path))
    samples = played(3, run(policy, episodes(3)))
    off = (samples[5].logprobs[0] + 2e-4, *samples[5].logprobs[1:])
    wrong = {
        "was sampled by v0, and the round began at v1": replace(samples[5], policy="v0"),
        "has no recorded log-probs": replace(samples[5], logprobs=None),
        "has no recorded log-probs ": replace(samples[5], logprobs=samples[5].logprobs[1:]),
        "differ by 0.0002 from a forward pass": replace(samples[5], logprobs=off),
        "differ by nan": replace(samples[5], logprobs=(float("nan"), *off[1:])),
    }
    for told, sample in wrong.items():
        with pytest.raises(InputError, match=f"^old=recorded: .*{told}.*use old=pass$"):
            from_record(policy, [*samples[:5], sample, *samples[6:]])
    loose = from_record(policy, [*samples[:5], replace(samples[5], logprobs=off), *samples[6:]], tolerance=0.05)
    assert (loose - from_record(policy, samples)).abs().max() == pytest.approx(2e-4, rel=0.01)


def test_a_learner_that_takes_the_record_learns_the_same_without_a_pass(tmp_path):
    first, hardware = start(tmp_path), Cpu()
    samples = played(4, run(Policy(load_model(first.path)), episodes(4)), first.version)
    samples = [sample for sample in samples if sample.policy]
    curves = []
    for word in ("pass", "recorded"):
        learner = LightningLearner(OfflinePO(), hardware, AdamW(lr=1e-3), epochs=2, batch_utterances=8, old=word)
        curves.append(learner.learn(samples, first, tmp_path / word, seed=0, name="next")[1]["curve"])
    shown = [[(row["loss"], row["kl"], row["grad_norm"]) for row in curve] for curve in curves]
    assert len(shown[0]) == len(shown[1]) > 2 and all(
        row == pytest.approx(other, abs=1e-5) for row, other in zip(*shown, strict=True)
    )
    stranger = LightningLearner(OfflinePO(), hardware, AdamW(lr=1e-3), old="recorded")
    with pytest.raises(InputError, match="use old=pass"):
        stranger.learn([replace(samples[0], policy="v0")], first, tmp_path / "stranger", seed=0, name="next")
    assert not (tmp_path / "stranger" / "snapshot").exists()


# --- another model
# ------------------------------------------------------------------------------------------------------


def test_another_model_gives_the_log_probs_before_the_policy_is_there(tmp_path):
    first, other, samples = start(tmp_path), start(tmp_path, "qwen2"), episodes(3)
    learner = LightningLearner(OfflinePO(), Cpu(), AdamW(lr=1e-3), batch_utterances=10**6, old=other.path)
    new, metrics = learner.learn(samples, first, tmp_path / "out", seed=0, name="next")
    assert metrics["curve"][0]["kl"] > 0.01 and metrics["reference_seconds"] > 0  # not zero, as against itself
    again, same = learner.learn(samples, first, tmp_path / "out", seed=0, name="next")
    assert (again, same) == (new, metrics)
    with pytest.raises(ValueError, match="trained from other inputs"):
        replace(learner, old="pass").learn(samples, first, tmp_path / "out", seed=0, name="next")
    itself = replace(learner, old=first.path).learn(samples, first, tmp_path / "itself", seed=0, name="next")[1]
    plain = replace(learner, old="pass").learn(samples, first, tmp_path / "plain", seed=0, name="next")[1]
    assert itself["curve"][0]["loss"] == pytest.approx(plain["curve"][0]["loss"], abs=1e-6)


def test_another_model_must_mean_the_same_tokens(tmp_path):
    first = start(tmp_path)
    strange = tmp_path / "strange"
    shutil.copytree(first.path, strange)
    words = json.loads((strange / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    vocab["w1"], vocab["w2"] = vocab["w2"], vocab["w1"]
    (strange / "tokenizer.json").write_text(json.dumps(words))
    learner = LightningLearner(OfflinePO(), Cpu(), AdamW(lr=1e-3), old=str(strange))
    with pytest.raises(InputError, match=r"differs from that of the policy in 2 tokens \(such as 'w1', 'w2'\)"):
        learner.learn(episodes(1), first, tmp_path / "out", seed=0, name="next")
    plain = replace(learner, loss=FilteredBC())  # which compares with nothing, so that nobody asks
    plain.learn(episodes(1), first, tmp_path / "plain", seed=0, name="next")
