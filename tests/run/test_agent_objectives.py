"""The agent's further objectives, an iteration each: DPO on right against wrong, SPIN on failures alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import training
from parley.credit import Contrast
from parley.data.store import Matches
from parley.run.build import running
from parley.run.loop import Loop

MODEL = ["model.width=64", "model.heads=2", "model.layers=2", "model.mlp=64"]
SMALL = [
    "experiment=qa_tiny", "debug=fast", "imitate.limit=250", "imitate.validation=0", "imitate.learner.epochs=2",
    "play.scenarios=16", "play.group=3",
]  # fmt: skip


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*SMALL, *words])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training.imitate(config("task=imitate", *MODEL), out := tmp_path_factory.mktemp("agent") / "start")
    return out / "iter_000/start/snapshot"


def learned(out: Path, start: Path, *words: str) -> tuple[dict[str, Any], Matches]:
    """An iteration of play and learning: its figures, and its matches."""
    begin = ["model=hf", f"model.path={start}", "imitate.first=false"]
    with running(config(*begin, *words), out) as run:
        loop = Loop(run)
        loop.iteration(1, [loop.start()])
    outputs = json.loads((out / "iter_001/learn/stage.json").read_text())["outputs"]["learner"]
    return outputs, Matches(out / "iter_001/play")


def test_dpo_on_right_against_wrong_rollouts(tmp_path: Path, start: Path) -> None:
    outputs, matches = learned(tmp_path / "dpo", start, "objective=dpo")
    pairs = {(sample.group, sample.utterances[0].side) for sample in Contrast()(matches, "learner").samples}
    assert outputs["credit"]["kept"] >= len(pairs) >= 2 and len(pairs) % 2 == 0
    scores = {each.result.returns["agent"] for each in matches}
    assert len(scores) > 1 and outputs["learn"]["steps"] >= 1 and "rewards/margins" in outputs["learn"]


def test_spin_on_failures_alone(tmp_path: Path, start: Path) -> None:
    words = ["objective=spin_tiny", "objective.credit.only=failures", "data.script=expert"]
    outputs, matches = learned(tmp_path / "failures", start, *words)
    failed = sum(each.result.returns["agent"] <= 0 for each in matches)
    assert 0 < outputs["credit"]["kept"] <= failed < len(matches) == 48
    assert outputs["learn"]["steps"] >= 1 and 0 <= outputs["learn"]["rewards/accuracies"] <= 1
