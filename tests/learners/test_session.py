"""Sessions: one optimiser and one schedule over rounds, two policies at a time, killed and resumed."""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from parley.learners.checkpoint import Saving
from parley.learners.hosted import HostedLearner
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW, factor
from parley.learners.session import Session
from parley.models.adapter import LoRA, QLoRA
from parley.models.load import load_model, load_policy
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.sft_kl import SFTKL
from parley.system import ranks
from parley.system.files import InputError
from processes import together
from streams import Cpu, episodes, start

ROUNDS = 3


def learner(**changes) -> LightningLearner:
    settings = {"loss": SFTKL(), "hardware": Cpu(), "optimizer": AdamW(lr=3e-3, eps=1e-4), "batch_utterances": 12}
    return LightningLearner(**{**settings, "checkpoint_s": 1e9, **changes})


def two_policies(folder: Path, snapshots, made: LightningLearner, report=None, every=1e9):
    """Both policies over all rounds, one after the other in each; their snapshots and figures."""
    with Saving(folder / "checkpoint", "inputs", every) as saving:
        sessions = {
            name: made.session(snapshot, folder / name, seed=at, name=name, rounds=ROUNDS, saving=saving, policy=name)
            for at, (name, snapshot) in enumerate(snapshots.items())
        }
        found = saving.position
        for number in range(found["round"] if found else 0, ROUNDS):
            saving.position = {"round": number, "credit": {"alice": [0.5, number]}}
            for at, session in enumerate(sessions.values()):
                session.step(episodes(3, seed=10 * number + at), number, report)
        return {name: (session.close(), session.figures()) for name, session in sessions.items()}


def adapters(folder: Path):
    base = start(folder)
    made = {name: LoRA(r=4).create(base, folder / name, at) for at, name in enumerate(("alice", "bob"))}
    return {name: replace(snapshot, version=f"{name}-{snapshot.version}") for name, snapshot in made.items()}


def vector(snapshot) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in load_policy(snapshot).state_dict().values()])


def plain(metrics):
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in metrics["curve"]]


# --- rounds ---


def test_a_learn_call_is_a_session_of_one_step(tmp_path):
    first, made = start(tmp_path), learner(epochs=2)
    whole, metrics = made.learn(episodes(), first, tmp_path / "learn", seed=5, name="next")
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        session = made.session(first, tmp_path / "session", seed=5, name="next", saving=saving)
        assert plain(session.step(episodes())) == plain(metrics)
        assert session.close().version == whole.version


def test_the_optimiser_and_the_schedule_run_over_all_rounds(tmp_path):
    """Rounds of plain AdamW by hand, on the mean log-prob of every utterance's tokens."""
    first, made = start(tmp_path), learner(loss=FilteredBC(), schedule="linear", warmup=0.25, clip=0.0)
    made = replace(made, batch_utterances=10**6, optimizer=AdamW(lr=3e-3, weight_decay=0.0))
    model = load_model(first.path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        session = made.session(first, tmp_path / "out", seed=0, name="v", rounds=ROUNDS, saving=saving)
        for number in range(ROUNDS):
            figures = session.step(samples := episodes(2, seed=number), number)
            rows = [(sample.token_ids, each) for sample in samples for each in sample.utterances]
            total, weight = torch.zeros(()), 0.0
            for ids, each in rows:
                ids_T = torch.tensor(ids)
                logprob_T = model(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]
                total = total - each.weight * logprob_T[each.start - 1 : each.end - 1].sum()
                weight += each.weight * (each.end - each.start)
            (total / weight).backward()
            optimizer.param_groups[0]["lr"] = 3e-3 * factor("linear", 0.25, number, ROUNDS)
            optimizer.step()
            optimizer.zero_grad()
            assert figures["curve"][0]["loss"] == pytest.approx((total / weight).item(), abs=1e-5)
            assert figures["curve"][0]["lr"] == optimizer.param_groups[0]["lr"]
        moved = dict(session.weights())
        assert moved.keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            assert torch.allclose(moved[name], parameter, atol=2e-5), name
        assert [row["step"] for row in session.figures()["curve"]] == list(range(ROUNDS))


def test_weights_are_live_and_raw_and_the_snapshot_is_the_average(tmp_path):
    first, made = start(tmp_path), learner(average=0.9)
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        session = made.session(first, tmp_path / "out", seed=0, name="v", rounds=2, saving=saving)
        assert session.version == first.version
        held = dict(session.weights())
        before = {name: value.clone() for name, value in held.items()}
        session.step(episodes(3), 0)
        assert session.version == f"{first.version}+r1"
        assert any((held[name] - before[name]).abs().max() > 1e-3 for name in held)
        assert all(value.data_ptr() == held[name].data_ptr() for name, value in session.weights())
        raw = {name: value.clone() for name, value in held.items()}
        written = dict(load_model(session.close().path).named_parameters())
    assert any((written[name] - raw[name]).abs().max() > 1e-4 for name in raw)


def test_adapters_on_one_base_hold_it_once(tmp_path):
    snapshots, made = adapters(tmp_path), learner()
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        one, two = (
            made.session(each, tmp_path / f"to {name}", seed=0, name=name, saving=saving, policy=name)
            for name, each in snapshots.items()
        )
        mine, theirs = dict(one.weights()), dict(two.weights())
        assert mine.keys() == theirs.keys()
        shared = {name for name in mine if mine[name].data_ptr() == theirs[name].data_ptr()}
        assert shared == {name for name in mine if "lora_" not in name} and len(shared) < len(mine)


def test_a_base_is_held_once_whichever_of_its_layers_are_adapted(tmp_path):
    base = start(tmp_path)
    snapshots = [
        LoRA(r=4).create(base, tmp_path / "all", 0),
        LoRA(r=2, targets=["q_proj"]).create(base, tmp_path / "q", 0),
    ]
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        one, two = (
            learner().session(each, tmp_path / each.version, seed=0, name="v", saving=saving, policy=str(at))
            for at, each in enumerate(snapshots)
        )
        mine, theirs = ({key: each.data_ptr() for key, each in session.weights()} for session in (one, two))
    frozen = [key for key in mine if "lora_" not in key]
    assert frozen and [mine[key] for key in frozen] == [theirs[key] for key in frozen]


def test_a_policy_among_others_is_what_it_is_alone(tmp_path):
    snapshots, made = adapters(tmp_path), learner()
    both = two_policies(tmp_path / "both", snapshots, made)
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        alone = made.session(snapshots["bob"], tmp_path / "alone", seed=1, name="bob", rounds=ROUNDS, saving=saving)
        for number in range(ROUNDS):
            alone.step(episodes(3, seed=10 * number + 1), number)
        assert alone.close().version == both["bob"][0].version
    assert plain(alone.figures()) == plain(both["bob"][1])


def test_a_round_that_is_left_out_moves_nothing(tmp_path):
    first, made = start(tmp_path), learner(schedule="constant")
    ends = []
    for number, rounds in enumerate([(0, 1), (0, 2)]):
        with Saving(tmp_path / f"checkpoint{number}", "x", 1e9) as saving:
            session = made.session(first, tmp_path / str(number), seed=0, name="v", rounds=ROUNDS, saving=saving)
            session.step(episodes(3), rounds[0])
            assert session.step(episodes(3), rounds[0]) is session.past[0]  # which is not done twice
            ends.append(session.figures()["steps"])
    assert ends[0] == ends[1] > 0


def test_only_learners_that_read_tokens_have_sessions():
    assert LightningLearner.sessions and not HostedLearner.sessions


# --- columns ---


@dataclass(frozen=True)
class Watching(FilteredBC):
    """Cloning that shows every column: sums over the batch's tokens and utterances."""

    columns = ("sampler", "old", "reference", "entropy", "advantage", "value")

    def __call__(self, logprob_N, columns, totals):
        loss, metrics = super().__call__(logprob_N, columns, totals)
        shown = {
            "sampler": columns.sampler_N.nan_to_num(7.0),
            "moved": (logprob_N - columns.old_N).abs(),
            "away": (logprob_N - columns.reference_N).abs(),
            "entropy": columns.entropy_N,
            "advantage": columns.more["advantage"],
            "value": columns.more["value"].nan_to_num(3.0),
        }
        return loss - 0.01 * columns.entropy_N.sum(), metrics | {
            name: each.detach().sum() for name, each in shown.items()
        }


def watched() -> list:
    """Samples of which all but the last have log-probs and a column of tokens; each utterance has a number."""
    samples = []
    for sample in episodes(2):
        count = sum(each.end - each.start for each in sample.utterances)
        spans = tuple(replace(each, numbers={"advantage": 0.5}) for each in sample.utterances)
        samples.append(replace(sample, utterances=spans, logprobs=(-1.0,) * count, tokens={"value": (2.0,) * count}))
    return [*samples[:-1], replace(samples[-1], logprobs=None, tokens={})]


@pytest.mark.parametrize("adapted", [False, True])
def test_an_objective_gets_the_columns_that_it_names(adapted, tmp_path):
    base = start(tmp_path)
    first = LoRA(r=4).create(base, tmp_path / "adapter", 0) if adapted else base
    reference = base if adapted else start(tmp_path, "qwen2")
    made = learner(loss=Watching(), hardware=Cpu(head_chunk=7), batch_utterances=10**6)
    samples, curve = watched(), []
    tokens = [sum(each.end - each.start for each in sample.utterances) for sample in samples]
    with Saving(tmp_path / "checkpoint", "x", 1e9) as saving:
        session = made.session(first, tmp_path / "out", seed=0, name="v", rounds=2, saving=saving, reference=reference)
        for number in range(2):
            curve += session.step(samples, number)["curve"]
    away = (forward_of(reference, samples) - forward_of(base, samples)).abs().sum().item()
    assert [row["sampler"] for row in curve] == [-sum(tokens[:-1]) + 7 * tokens[-1]] * 2
    assert [row["value"] for row in curve] == [2 * sum(tokens[:-1]) + 3 * tokens[-1]] * 2
    assert [row["advantage"] for row in curve] == [0.5 * sum(len(sample.utterances) for sample in samples)] * 2
    assert [row["moved"] for row in curve] == pytest.approx([0.0, 0.0], abs=1e-3)  # old is the policy of each round
    assert curve[0]["away"] == pytest.approx(away, abs=1e-2) and curve[1]["away"] > curve[0]["away"] * (
        1 if away else 0
    )
    assert abs(curve[1]["away"] - curve[0]["away"]) > 0.1  # while the reference stays
    assert adapted == (not session._kept)  # the base under the adapter needs no second model
    assert curve[0]["entropy"] == pytest.approx(entropy_of(base, samples), rel=1e-4)


@pytest.mark.parametrize("kind", [LoRA, QLoRA])
def test_a_reference_that_is_an_adapter_shares_the_policys_base(kind, tmp_path, monkeypatch):
    base = start(tmp_path)
    first, reference = (kind(r=4).create(base, tmp_path / str(seed), seed) for seed in (0, 1))
    reference, _ = learner().learn(episodes(2), reference, tmp_path / "moved", seed=0, name="reference")
    made, found = learner(loss=Watching(), batch_utterances=10**6), []
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr(Session, "_same_base", lambda self, other: False)
        with Saving(tmp_path / f"checkpoint {shared}", "x", 1e9) as saving:
            session = made.session(
                first, tmp_path / f"{shared}", seed=0, name="v", rounds=2, saving=saving, reference=reference
            )
            found.append([session.step(watched(), number)["curve"][0]["away"] for number in range(2)])
            (kept,) = session._kept.values()
            own = {each.data_ptr() for each in session.training.policy.parameters() if not each.requires_grad}
            others = {each.data_ptr() for each in kept.policy.parameters() if not each.requires_grad}
            assert (own == others) == shared and len(own) > 5
    assert found[0] == found[1] and min(found[0]) > 0.1


def forward_of(snapshot, samples):
    return logprobs_of(snapshot, samples)[0]


def entropy_of(snapshot, samples) -> float:
    return logprobs_of(snapshot, samples)[1].sum().item()


def logprobs_of(snapshot, samples):
    """Log-probs and entropies of all supervised tokens, from the model's own logits, one sample at a time."""
    model, found = load_model(snapshot.path), []
    for sample in samples:
        ids_T = torch.tensor(sample.token_ids)
        with torch.no_grad():
            logp_TV = model(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1)
        both = torch.stack([logp_TV.gather(1, ids_T[1:, None])[:, 0], -(logp_TV.exp() * logp_TV).sum(-1)])
        found += [both[:, each.start - 1 : each.end - 1] for each in sample.utterances]
    return torch.cat(found, dim=1)


def test_a_column_of_another_length_is_refused(tmp_path):
    samples = watched()
    samples[0] = replace(samples[0], tokens={"value": (1.0,)})
    with pytest.raises(ValueError, match=r"sample '0.0': column 'value' has 1 values for 5 supervised tokens"):
        learner(loss=Watching()).learn(
            samples, first := start(tmp_path), tmp_path / "o", seed=0, name="v", reference=first
        )


def test_an_objective_without_its_reference_is_told(tmp_path):
    with pytest.raises(ValueError, match="Watching needs a fixed reference, and none was given"):
        learner(loss=Watching()).learn(watched(), start(tmp_path), tmp_path / "out", seed=0, name="v")


def test_a_round_that_is_cut_off_keeps_what_its_steps_are_compared_with(tmp_path):
    first, made = start(tmp_path), learner(epochs=2)

    def run(folder, report=None):
        with Saving(folder / "checkpoint", "x", 1e9) as saving:
            session = made.session(first, folder, seed=0, name="v", rounds=2, saving=saving)
            for number in range(2):
                session.step(episodes(3, seed=number), number, report)
            return session.close().version, plain(session.figures())

    def stop(row):
        if row["step"] == 4:
            signal.raise_signal(signal.SIGTERM)

    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", stop)
    assert run(tmp_path / "cut") == whole


# --- killed and resumed ---


@pytest.mark.parametrize(("at", "saved"), [(1, 2), (4, 5), (9, 11)])  # the tenth step is the last one of the first
def test_asked_to_stop_in_any_round_both_policies_go_on_exactly(at, saved, tmp_path):
    snapshots, made, seen = adapters(tmp_path), learner(average=0.9), []
    whole = two_policies(tmp_path / "whole", snapshots, made)
    steps = sum(metrics["steps"] for _, metrics in whole.values())

    def report(row):
        seen.append(row)
        if len(seen) == at:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        two_policies(tmp_path / "cut", snapshots, made, report)
    assert left.value.code == 75
    assert [path.name for path in (tmp_path / "cut/checkpoint").iterdir()] == [str(saved)]
    again = two_policies(tmp_path / "cut", snapshots, made, seen.append)
    assert len(seen) == steps
    for name in snapshots:
        assert again[name][0].version == whole[name][0].version and plain(again[name][1]) == plain(whole[name][1])


def test_a_checkpoint_knows_its_policies_and_the_callers_position(tmp_path):
    snapshots, made = adapters(tmp_path), learner()
    with pytest.raises(SystemExit):
        two_policies(tmp_path, snapshots, made, lambda row: signal.raise_signal(signal.SIGTERM))
    with Saving(tmp_path / "checkpoint", "inputs", 1e9) as saving:
        assert saving.position == {"round": 0, "credit": {"alice": [0.5, 0]}}
        with pytest.raises(InputError, match="holds no policy carol, only alice, bob"):
            made.session(snapshots["bob"], tmp_path, seed=0, name="x", saving=saving, policy="carol")
    with pytest.raises(InputError, match="checkpoint of other inputs"):
        Saving(tmp_path / "checkpoint", "others", 1e9)


# --- on several ranks ---


def on_ranks(folder: Path, snapshots, strategy: str) -> None:
    hardware = Cpu(strategy=strategy, devices=ranks.world(), micro_tokens=60, row_tokens=48)
    made = learner(hardware=hardware)
    two_policies(folder / strategy, snapshots, made)
    with Saving(folder / f"checkpoint {strategy}", "x", 1e9) as saving:
        session = made.session(next(iter(snapshots.values())), folder / "w", seed=0, name="v", saving=saving)
        session.step(episodes(2))
        torch.save(dict(session.weights()), folder / f"{strategy}.{ranks.rank()}.pt")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_policies_take_turns_on_two_processes(strategy, tmp_path):
    base = start(tmp_path)
    snapshots = adapters(tmp_path) if strategy == "ddp" else {"alice": base, "bob": replace(base, version="other")}
    on_ranks(tmp_path, snapshots, "single")
    assert together(2, on_ranks, tmp_path, snapshots, strategy) == [0, 0]
    for name, snapshot in snapshots.items():
        one, two = (
            vector(replace(snapshot, path=str(tmp_path / each / name / "snapshot"))) for each in ("single", strategy)
        )
        assert (one - two).abs().max() < 1e-5
    single, other = (torch.load(tmp_path / f"{each}.0.pt") for each in ("single", strategy))
    assert single.keys() == other.keys() and all(torch.allclose(single[key], other[key], atol=1e-5) for key in single)
