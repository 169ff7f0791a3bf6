"""The tool-using agent end to end on a very small scale: SPIN on whole rollouts, its files, and what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parley.data.formats import trajectories
from parley.data.store import Matches

from commands import output

SMALL = [
    "experiment=qa_tiny", "game.questions.validation=0.3", "game.questions.test=0.5", "model.width=64", "model.heads=2",
    "model.layers=2", "model.mlp=64", "imitate.learner.epochs=3", "eval.scenarios=8", "eval.validation=4",
    "eval.transcripts=1", "play.scenarios=24", "play.group=2", "iterations=1",
]  # fmt: skip


@pytest.mark.slow
def test_spin_on_rollouts_trains_shows_and_exports(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    told = output(*SMALL, "objective=spin_tiny", "data.script=expert", f"hydra.run.dir={run}", folder=tmp_path)
    assert "em" in told
    outputs = json.loads((run / "iter_001/learn/stage.json").read_text())["outputs"]["learner"]
    kept, learn = outputs["credit"]["kept"], outputs["learn"]
    assert 0 < kept <= 48 and 0 <= learn["rewards/accuracies"] <= 1
    played = list(Matches(run / "iter_001/play"))
    assert learn["utterances"] > kept and {each.players["search"] for each in played} == {"search"}
    page = (run / "report/index.html").read_text()
    assert '<span class="step action">' in page and '<span class="step observation">' in page
    shown = output(
        "task=show", f"run={run}", f"match={played[0].id}", f"hydra.run.dir={tmp_path}/show", folder=tmp_path
    )
    assert "Action:" in shown
    exported = output("task=export", f"run={run}", "task.keep=all", f"hydra.run.dir={out}", folder=tmp_path)
    finished = {each.scenario.id for each in played if each.result.metrics["finished_rate"]}
    if finished:
        assert "as FireAct's code reads it" in exported
        entries = trajectories.read_entries(out / "trajectories.json")
        assert entries.keys() == finished and len(json.loads((out / "alpaca.json").read_text())) == len(finished)
