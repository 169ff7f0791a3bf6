"""Exact resume inside an iteration: killed or asked to stop, the same loss curve to the last digit, and the same
weights."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parley.learners import checkpoint
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW, Muon, RMSProp
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.sft_kl import SFTKL
from parley.system.files import InputError
from processes import together
from streams import Cpu, episodes, start

TIMES = ("tokens_per_second",)


def learner(**changes) -> LightningLearner:
    settings = {
        "loss": FilteredBC(),
        "hardware": Cpu(),
        "optimizer": AdamW(lr=3e-3),
        "epochs": 2,
        "batch_utterances": 12,
        "warmup": 0.3,
    }
    return LightningLearner(**{**settings, "checkpoint_s": 0.0, **changes})


def plain(curve):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in curve]


def train(made, first, folder, signum=None, at=3, **changes):
    """One call, which gets the signal after the step `at`."""

    def report(row):
        if signum is not None and row["step"] == at:
            os.kill(os.getpid(), signum)

    return made.learn(episodes(), first, folder, seed=5, name="next", progress=report, **changes)


def killed(folder, first, at):
    train(learner(optimizer=Muon(), average=0.9), first, folder / "cut", signal.SIGKILL, at)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("optimizer", [AdamW(lr=3e-3), RMSProp(lr=1e-3, momentum=0.5)])
def test_asked_to_stop_it_saves_exits_with_75_and_goes_on_exactly(signum, optimizer, tmp_path):
    first, made = start(tmp_path), learner(loss=SFTKL(), optimizer=optimizer, checkpoint_s=1e9)
    whole, metrics = train(made, first, tmp_path / "whole")
    handlers = signal.getsignal(signum)
    with pytest.raises(SystemExit) as left:
        train(made, first, tmp_path / "cut", signum)
    assert left.value.code == 75 and signal.getsignal(signum) is handlers
    assert not (tmp_path / "cut/snapshot").exists() and [
        path.name for path in (tmp_path / "cut/checkpoint").iterdir()
    ] == ["5"]
    steps = []
    new, again = made.learn(
        episodes(), first, tmp_path / "cut", seed=5, name="next", progress=lambda row: steps.append(row["step"])
    )
    assert steps == list(range(5, metrics["steps"])) and plain(again["curve"]) == plain(metrics["curve"])
    assert new.version == whole.version and (again["packing"], again["padding"]) == (
        metrics["packing"],
        metrics["padding"],
    )
    assert not (tmp_path / "cut/checkpoint").exists()


def test_killed_it_goes_on_exactly(tmp_path):
    first, made = start(tmp_path), learner(optimizer=Muon(), average=0.9)
    whole, metrics = train(made, first, tmp_path / "whole")
    for at in (2, 4):
        assert together(1, killed, tmp_path, first, at) == [-signal.SIGKILL]
        assert [path.name for path in (tmp_path / "cut/checkpoint").iterdir()] == [str(at)]  # of the step before
    new, again = train(made, first, tmp_path / "cut")
    assert plain(again["curve"]) == plain(metrics["curve"]) and new.version == whole.version


def test_a_checkpoint_that_is_not_whole_does_not_count(tmp_path):
    first, made = start(tmp_path), learner()
    with pytest.raises(SystemExit):
        train(made, first, tmp_path / "cut", signal.SIGTERM)
    torn = tmp_path / "cut/checkpoint/9"
    torn.mkdir()
    (torn / "0.safetensors").write_bytes(b"half of it")
    assert checkpoint.newest(tmp_path / "cut/checkpoint", _inputs(tmp_path / "cut"))[0].name == "5"
    train(made, first, tmp_path / "cut")
    assert not (tmp_path / "cut/checkpoint").exists()


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path):
    first, made = start(tmp_path), learner()
    with pytest.raises(SystemExit):
        train(made, first, tmp_path / "cut", signal.SIGTERM)
    for other in (learner(epochs=3), learner(loss=FilteredBC(reduce="utterance")), learner(optimizer=AdamW(lr=1e-3))):
        with pytest.raises(InputError, match="checkpoint of other inputs"):
            train(other, first, tmp_path / "cut")
    train(replace(made, checkpoint_s=50.0), first, tmp_path / "cut")  # how often it saves is no input


@pytest.mark.parametrize("text", ["", "[]", "{", '{"inputs": 3}', '{"inputs": "x", "world": "2", "policies": {}}'])
def test_B05_a_state_of_a_checkpoint_that_cannot_be_read_is_named(tmp_path, text):
    for name in ("7", "notes"):  # a folder that is none of ours counts for nothing
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"7.state\.json") as told:
        checkpoint.newest(tmp_path, "x")
    assert "\n" not in str(told.value)
    if text != '{"inputs": 3}':
        with pytest.raises(InputError, match=r"7.state\.json"):
            checkpoint.carried(tmp_path / "7")


def test_a_signal_after_the_last_step_loses_nothing(tmp_path):
    first, made = start(tmp_path), learner()
    whole, metrics = train(made, first, tmp_path / "whole")
    with pytest.raises(SystemExit):
        train(made, first, tmp_path / "cut", signal.SIGTERM, metrics["steps"] - 1)
    assert not (tmp_path / "cut/checkpoint").exists()
    assert train(made, first, tmp_path / "cut")[0].version == whole.version


def _inputs(folder: Path) -> str:
    import json

    return json.loads((next((folder / "checkpoint").glob("*/state.json"))).read_text())["inputs"]


def test_random_numbers_go_on_where_the_checkpoint_left_them(tmp_path):
    module = torch.nn.Linear(2, 2)
    torch.manual_seed(5)
    torch.rand(3)
    checkpoint.write(tmp_path, module, [], {})
    wanted = torch.rand(4)
    torch.manual_seed(6)
    checkpoint.restore(checkpoint.Part(tmp_path, 1, {}), module, [])
    assert torch.equal(torch.rand(4), wanted)
