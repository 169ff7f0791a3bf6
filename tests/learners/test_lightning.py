"""The learner: the same numbers whatever the packing, deterministic, resumable, quiet, and it learns."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from parley.batches.packing import Budget, MicroBatch, collate, pack, supervised
from parley.batches.plan import plan
from parley.data.sample import Sample, Utterance
from parley.learners import training
from parley.learners.device import budget
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW, Muon
from parley.learners.training import Training, columns
from parley.models.dropout import Dropout
from parley.models.load import load_model, load_policy
from parley.models.policy import Policy
from parley.models.snapshot import digest
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.offline_po import OfflinePO
from parley.objectives.sft_kl import SFTKL
from parley.objectives.spin import Spin
from parley.system.files import InputError
from streams import MODELS, Cpu, episodes, start

OBJECTIVES = {
    "filtered_bc": FilteredBC(),
    "filtered_bc by utterance": FilteredBC(reduce="utterance"),
    "offline_po": OfflinePO(),
    "sft_kl": SFTKL(),
    "spin": Spin(),
}


def learner(**changes) -> LightningLearner:
    settings = {
        "loss": FilteredBC(),
        "hardware": Cpu(),
        "optimizer": AdamW(lr=3e-3),
        "epochs": 2,
        "batch_utterances": 12,
    }
    return LightningLearner(**{**settings, **changes})


def weights(folder: str | Path) -> bytes:
    return (Path(folder) / "model.safetensors").read_bytes()


# --- the same numbers ---------------------------------------------------------------------------------------------


def gradient_of(policy, loss, samples, micros, ref_M):
    """Loss and gradients of a global batch, summed over its micro-batches."""
    policy.zero_grad()
    totals = loss.totals([each for sample in samples for each in sample.utterances])
    total = 0.0
    for micro in micros:
        batch = collate(samples, micro, supervised(samples))
        value, _ = loss(
            policy(batch), columns(batch.utterances, batch.utterance_N, {"old": ref_M[batch.token_N]}), totals
        )
        value.backward()
        total += value.item()
    return total, torch.cat([each.grad.flatten().clone() for each in policy.parameters()])


def one_row_per_utterance(model, loss, samples, ref_M):
    """The slow reference: every utterance in a row of its own through the model's own forward; one backward."""
    model.zero_grad()
    utterances = [each for sample in samples for each in sample.utterances]
    rows = [(sample.token_ids, each) for sample in samples for each in sample.utterances]
    values = []
    for ids, each in rows:
        ids_T = torch.tensor(ids[: each.end])
        logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0]
        values.append(logits_TV[:-1].log_softmax(-1).gather(1, ids_T[1:, None])[each.start - 1 :, 0])
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(value) for value in values]))
    value, _ = loss(torch.cat(values), columns(utterances, owner, {"old": ref_M}), loss.totals(utterances))
    value.backward()
    return value.item(), torch.cat([each.grad.flatten().clone() for each in model.parameters()])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_is_one_row_per_utterance_for_every_objective(name, tmp_path):
    loss, samples = OBJECTIVES[name], episodes(4)
    policy = Policy(load_model(start(tmp_path).path), head_chunk=11)
    ref_M = -2.0 - torch.rand(supervised(samples)[-1], generator=torch.Generator().manual_seed(0))
    expected, wanted = one_row_per_utterance(policy.model, loss, samples, ref_M)
    (step,) = plan(samples, Budget(48, 96), seed=0, epochs=1, batch_utterances=10**6)
    assert len(step.micros) > 2
    for micros in (
        step.micros,
        plan(samples, Budget(10**6, 10**6), seed=0, epochs=1, batch_utterances=10**6)[0].micros,
    ):
        got, gradient = gradient_of(policy, loss, samples, micros, ref_M)
        assert got == pytest.approx(expected, abs=1e-5)
        assert (gradient - wanted).abs().max() < 1e-5
    shares = [gradient_of(policy, loss, samples, step.micro(rank, 3), ref_M) for rank in range(3)]
    assert sum(share[0] for share in shares) == pytest.approx(expected, abs=1e-5)
    assert (sum(share[1] for share in shares) - wanted).abs().max() < 1e-5


def test_a_denominator_of_the_micro_batch_alone_shows(tmp_path):
    samples = episodes(4)
    policy = Policy(load_model(start(tmp_path).path))
    ref_M = torch.zeros(supervised(samples)[-1])

    class PerMicroBatch(FilteredBC):
        """The fault of the published code: each micro-batch is divided by its own count."""

        def __call__(self, logprob_N, columns, totals):
            own = {"weight": columns.weight_U[columns.utterance_N].sum().item()}
            return super().__call__(logprob_N, columns, own)

    units = [(number,) for number in range(len(samples))]
    many, whole = pack(samples, units, Budget(48, 96)), pack(samples, units, Budget(10**6, 10**6))
    right = [gradient_of(policy, FilteredBC(), samples, micros, ref_M)[0] for micros in (many, whole)]
    wrong = [gradient_of(policy, PerMicroBatch(), samples, micros, ref_M)[0] for micros in (many, whole)]
    assert right[0] == pytest.approx(right[1], abs=1e-5)
    assert abs(wrong[0] - wrong[1]) > 0.1


@pytest.mark.parametrize("name", ["filtered_bc", "spin"])
def test_training_does_not_depend_on_how_batches_are_cut(name, tmp_path):
    first, samples, curves = start(tmp_path), episodes(), []
    budgets = [
        Cpu(micro_tokens=40, row_tokens=24),
        Cpu(micro_tokens=10**5, row_tokens=10**4),
        Cpu(activation_checkpointing=True),
    ]
    for number, hardware in enumerate(budgets):
        made = learner(loss=OBJECTIVES[name], hardware=hardware, epochs=1, optimizer=AdamW(lr=1e-3, eps=1e-3))
        curves.append(made.learn(samples, first, tmp_path / str(number), seed=5, name="next")[1]["curve"])
    for curve in curves[1:]:
        assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in curves[0]], abs=1e-5)
        assert [row["grad_norm"] for row in curve] == pytest.approx([row["grad_norm"] for row in curves[0]], abs=1e-4)


# --- what a call does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bloom"])
def test_it_learns_on_every_architecture_and_leaves_the_start_alone(name, tmp_path):
    first = start(tmp_path, name)
    before, reported = digest(first.path), []
    new, metrics = learner(epochs=6).learn(
        episodes(3), first, tmp_path / "out", seed=0, name="v1", progress=reported.append
    )
    assert digest(first.path) == before and new.version != first.version and new.version.startswith("v1-")
    assert new.path == str(tmp_path / "out" / "snapshot") and new.base is None
    curve = metrics["curve"]
    assert curve == reported and [row["step"] for row in curve] == list(range(metrics["steps"]))
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    assert metrics["utterances"] == 18 and metrics["samples"] == 15 and 0 <= metrics["padding"] < 1 < metrics["packing"]
    kept = load_model(new.path)
    assert type(kept).__name__ == type(load_model(first.path)).__name__ and kept.dtype == torch.float32


def test_a_model_that_cannot_be_packed_is_trained_one_sample_per_row(tmp_path):
    with pytest.warns(UserWarning, match="one sample per row"):
        _, metrics = learner(epochs=4).learn(episodes(2), start(tmp_path, "bloom"), tmp_path / "out", seed=0, name="v1")
    assert metrics["curve"][-1]["loss"] < metrics["curve"][0]["loss"] - 0.1


def test_the_same_inputs_give_the_same_bits(tmp_path):
    first, samples = start(tmp_path), episodes()
    made = [learner(optimizer=Muon()).learn(samples, first, tmp_path / name, seed=1, name="v") for name in "ab"]
    assert weights(made[0][0].path) == weights(made[1][0].path) and made[0][0].version == made[1][0].version
    other, _ = learner(optimizer=Muon()).learn(samples, first, tmp_path / "c", seed=2, name="v")
    assert weights(other.path) != weights(made[0][0].path)


def test_global_randomness_is_not_touched(tmp_path):
    first = start(tmp_path)
    before = torch.random.get_rng_state()
    learner().learn(episodes(2), first, tmp_path / "out", seed=0, name="v")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_finished_folder_is_given_back_and_another_call_is_refused(tmp_path):
    first, samples, steps = start(tmp_path), episodes(2), []
    new, metrics = learner().learn(samples, first, tmp_path / "out", seed=0, name="v")
    again, same = learner().learn(samples, first, tmp_path / "out", seed=0, name="v", progress=steps.append)
    assert (again, same["curve"]) == (new, metrics["curve"]) and not steps
    changed = [replace(samples[0], utterances=(replace(samples[0].utterances[0], weight=0.25),)), *samples[1:]]
    for args, settings in (((samples, 1), {}), ((changed, 0), {}), ((samples, 0), {"epochs": 3})):
        with pytest.raises(ValueError, match="was trained from other inputs"):
            learner(**settings).learn(args[0], first, tmp_path / "out", seed=args[1], name="v")


def test_a_loss_that_is_not_finite_stops_before_anything_is_written(tmp_path):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        learner(optimizer=AdamW(lr=1e30), clip=0.0).learn(
            episodes(), start(tmp_path), tmp_path / "out", seed=0, name="v"
        )
    assert not (tmp_path / "out" / "snapshot").exists() and not (tmp_path / "out" / "learn.json").exists()


def test_it_is_quiet_and_leaves_nothing_but_its_outputs(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = start(tmp_path)
    capfd.readouterr()
    learner(loss=SFTKL()).learn(episodes(2), first, tmp_path / "out", seed=0, name="v")
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "learn.json",
        "snapshot",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out"]
    assert json.loads((tmp_path / "out" / "learn.json").read_text())["metrics"]["steps"] > 0


def test_clipping_bounds_the_step_and_the_schedule_is_followed(tmp_path):
    made = learner(schedule="linear", warmup=0.25, epochs=2, batch_utterances=9)
    _, metrics = made.learn(episodes(3), start(tmp_path), tmp_path / "out", seed=0, name="v")
    assert [row["lr"] for row in metrics["curve"]] == pytest.approx([3e-3, 3e-3, 2e-3, 1e-3])


def test_bfloat16_autocast_stays_close(tmp_path):
    first, samples = start(tmp_path), episodes(3)
    exact, half = (
        learner(hardware=Cpu(precision=precision)).learn(samples, first, tmp_path / precision, seed=0, name="v")[1][
            "curve"
        ]
        for precision in ("32-true", "bf16-mixed")
    )
    assert [row["loss"] for row in half] == pytest.approx([row["loss"] for row in exact], rel=0.02)
    assert half[0]["loss"] != exact[0]["loss"]


@pytest.mark.parametrize("precision, even", [("32-true", False), ("bf16-mixed", True)])
def test_rows_have_few_lengths_where_a_cpu_compiles_a_kernel_for_each(tmp_path, monkeypatch, precision, even):
    widths = []

    def collated(*given):
        batch = collate(*given)
        widths.append(batch.tokens_BT.shape[1])
        assert not batch.causal
        return batch

    monkeypatch.setattr(training, "collate", collated)
    learner(hardware=Cpu(precision=precision)).learn(episodes(3), start(tmp_path), tmp_path / "out", seed=0, name="v")
    assert len(widths) > 2 and all(width % 128 == 0 for width in widths) == even


# --- the reference ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moved(FilteredBC):
    """FilteredBC, and how far the policy has moved from its reference."""

    columns = ("old",)

    def __call__(self, logprob_N, columns, totals):
        loss, metrics = super().__call__(logprob_N, columns, totals)
        return loss, {**metrics, "moved": (logprob_N.detach() - columns.old_N).abs().sum()}


def test_the_reference_is_the_policy_at_the_start_of_the_iteration(tmp_path):
    made = learner(loss=Moved(), hardware=Cpu(head_chunk=16))
    curve = made.learn(episodes(), start(tmp_path), tmp_path / "out", seed=0, name="v")[1]["curve"]
    assert curve[0]["moved"] < 1e-3 < 1 < curve[-1]["moved"]


def test_numbers_carry_every_utterance_and_count_pairs_from_zero():
    samples = episodes(4)
    batch = collate(samples, MicroBatch(((17, 18), (2, 3), (4,)), (20, 20, 24)), supervised(samples))
    given = columns(batch.utterances, batch.utterance_N)
    assert given.pair_U.tolist() == [0, 0, 1, 1, -1, -1]
    assert given.side_U.tolist() == [1, -1, 1, -1, 0, 0]
    assert given.sft_U.tolist() == [False, False, False, False, True, True]
    assert given.weight_U.tolist() == [1, 1, 1, 1, 0.5, 1]
    assert given.reward_U.tolist() == pytest.approx([each.reward for each in batch.utterances])


# --- dropout ------------------------------------------------------------------------------------------------------


def test_dropout_is_drawn_by_name_and_gone_afterwards(tmp_path):
    samples, begin = episodes(8), start(tmp_path / "start")
    made = [
        learner(dropout=rate).learn(samples, begin, tmp_path / str(at), seed=seed, name="x")
        for at, (rate, seed) in enumerate([(0.3, 1), (0.3, 1), (0.3, 2), (0.0, 1)])
    ]
    one, again, other, without = (weights(snapshot.path) for snapshot, _ in made)
    assert one == again and len({one, other, without}) == 3
    assert made[0][1]["curve"][0]["loss"] != made[3][1]["curve"][0]["loss"]


def test_no_two_samples_meet_the_same_dropout(tmp_path):
    """A prefix that they share would otherwise be computed once, and be wrong in the same way for all of them."""
    policy = Policy(load_model(start(tmp_path).path)).train()
    policy.use_path_attention()
    twins = [Sample(str(n), tuple(range(1, 10)), (Utterance(1, 9),)) for n in range(2)]
    found = {}
    for p in (0.0, 0.3):
        (micro,) = pack(twins, [[0], [1]], budget(policy, Cpu(), p))
        batch = collate(twins, micro, supervised(twins))
        if p:
            Dropout(policy.causal_lm, p).key = 1
        found[p] = policy(batch).view(2, 8)
    assert torch.equal(*found[0.0]) and not torch.isclose(*found[0.3]).any()


def test_dropout_beside_a_reference_is_refused():
    with pytest.raises(InputError, match="compares with a reference"):
        learner(loss=OfflinePO(), dropout=0.1)


# --- averaged weights ---------------------------------------------------------------------------------------------


def test_the_snapshot_holds_the_moving_average_of_the_weights(tmp_path, monkeypatch):
    seen = []
    step = Training._average

    def spied(training, done):
        seen.append(
            {name: value.detach().clone().double() for name, value in training.policy.causal_lm.named_parameters()}
        )
        step(training, done)

    monkeypatch.setattr(Training, "_average", spied)
    samples, begin = episodes(8), start(tmp_path / "start")
    made, metrics = learner(average=0.5, epochs=3).learn(samples, begin, tmp_path / "one", seed=1, name="x")
    plain, same = learner(epochs=3).learn(samples, begin, tmp_path / "two", seed=1, name="x")
    slow = seen[0]
    for number, now in enumerate(seen[1 : metrics["steps"]], 1):
        decay = min(0.5, (1 + number) / (10 + number))
        slow = {name: decay * slow[name] + (1 - decay) * now[name] for name in now}
    found = dict(load_policy(made).named_parameters())
    assert metrics["steps"] > 10 and all(torch.allclose(found[name].double(), slow[name], atol=1e-6) for name in slow)
    assert made.version != plain.version and [row["loss"] for row in metrics["curve"]] == [
        row["loss"] for row in same["curve"]
    ]


def test_an_average_that_cannot_be_kept_is_refused():
    with pytest.raises(InputError, match=r"average is 1\.0, expected 0"):
        learner(average=1.0)
    with pytest.raises(InputError, match="bfloat16 cannot represent"):
        learner(average=0.9, hardware=Cpu(precision="bf16-true"))


def test_the_gradient_of_a_step_is_no_longer_than_the_clip(tmp_path):
    """An optimiser whose updates are the gradient itself, so that a step is as long as what was clipped."""
    first, moved = start(tmp_path), {}
    for clip in (0.0, 0.01):
        made = learner(optimizer=AdamW(lr=1.0, eps=1e3, weight_decay=0.0), clip=clip, epochs=1, batch_utterances=10**6)
        after, metrics = made.learn(episodes(3), first, tmp_path / f"clip {clip}", seed=0, name="v")
        old, new = (load_policy(each).state_dict() for each in (first, after))
        moved[clip] = 1e3 * torch.cat([(new[key] - old[key]).flatten().double() for key in old]).norm().item()
        norm = metrics["curve"][0]["grad_norm"]
    assert norm > 0.1  # told before it is clipped
    assert moved[0.0] == pytest.approx(norm, rel=0.2) and moved[0.01] == pytest.approx(0.01, rel=0.2)
