"""What jobs of a sweep begin from alike is made once, and only where all that it depends on is alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from parley.run.beginnings import borrow, lend
from parley.run.run import Run
from parley.run.stages import StageChanged, stage
from parley.system.files import digest

CONFIG = {
    "game": {"_target_": "a.Game"}, "data": None, "model": {"width": 8}, "players": {}, "opponents": {},
    "imitate": {"matches": 4, "learner": {"lr": 1}}, "learner": {"lr": 2, "epochs": 1}, "objective": {"credit": 1},
    "hardware": {"precision": "32"},
}  # fmt: skip


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "multirun.yaml").write_text("{}")
    return tmp_path


def job(out: Path, seed: int = 0, **changes: Any) -> Any:
    """A run of which only the stages are at work."""
    from parley.run.beginnings import sweep_of

    made = Run.__new__(Run)
    made.config, made.out, made.seed = OmegaConf.create({**CONFIG, **changes}), out, seed
    made.parts, made.done, made._nodes = SimpleNamespace(game=None, data=None), {}, {}
    made.sweep, made.noted = sweep_of(out), []
    made.progress = SimpleNamespace(note=made.noted.append)
    return made


def begin(run: Any, inputs: dict[str, Any] | None = None) -> tuple[bool, Any]:
    """Whether the run's start was made by it, and its outputs."""
    made = []

    def work() -> dict[str, Any]:
        folder = run.out / "iter_000" / "start"
        (folder / "snapshot").mkdir(parents=True)
        (folder / "snapshot" / "weights").write_text(f"of {run.out.name}")
        made.append(run.out.name)
        return {"snapshot": "iter_000/start/snapshot", "by": run.out.name}

    outputs = run.stage(
        "iter_000/start", inputs or {"base": "v1", "learner": dict(run.config.learner)}, work, shared=True
    )
    return bool(made), outputs


def test_jobs_that_begin_alike_share_the_start_and_its_files(sweep):
    assert begin(job(sweep / "0")) == (True, {"snapshot": "iter_000/start/snapshot", "by": "0"})
    later = job(sweep / "1", objective={"credit": 2})
    assert begin(later) == (False, {"snapshot": "iter_000/start/snapshot", "by": "0"})
    assert later.noted == ["iter_000/start: shared with job 0"]
    first, second = (sweep / each / "iter_000/start/snapshot/weights" for each in "01")
    assert first.samefile(second) and not (sweep / "1/iter_000/.start.borrowed").exists()
    assert begin(job(sweep / "1", objective={"credit": 2}))[0] is False  # resumed: its own by now
    for each in sweep.glob("0/**/*"):
        if each.is_file():
            each.unlink()
    assert second.read_text() == "of 0"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1}, {"model": {"width": 9}}, {"game": {"_target_": "b.Game"}}, {"hardware": {"precision": "16"}},
        {"imitate": {"matches": 5, "learner": {"lr": 1}}}, {"learner": {"lr": 2, "epochs": 2}}, {"data": {"path": "x"}},
        {"opponents": {"x": 1}},
    ],
)  # fmt: skip
def test_a_job_that_differs_in_what_counts_makes_its_own(sweep, changes):
    begin(job(sweep / "0"))
    assert begin(job(sweep / "1", **changes))[0] is True


def test_of_the_learner_the_node_that_imitates_counts(sweep):
    begin(job(sweep / "0"))
    later = job(sweep / "1", learner={"lr": 3, "epochs": 1})  # imitation's learning rate is its own
    assert begin(later)[0] is False
    assert json.loads((sweep / "1/iter_000/start/stage.json").read_text())["inputs"] == digest(
        {"base": "v1", "learner": {"lr": 3, "epochs": 1}}
    )


def test_runs_that_are_no_sweep_share_nothing(tmp_path):
    begin(job(tmp_path / "0"))
    assert begin(job(tmp_path / "1"))[0] is True and not (tmp_path / ".shared").exists()


def test_a_stage_that_was_begun_or_whose_lender_is_gone_is_made(sweep):
    lend(sweep, "key", sweep / "0" / "iter_000" / "start")
    assert borrow(sweep, "key", sweep / "1" / "iter_000" / "start", "x") is None  # the lender has no manifest
    (sweep / ".shared" / "far").write_text("../../elsewhere")
    assert borrow(sweep, "far", sweep / "1" / "iter_000" / "start", "x") is None
    stage(sweep / "0" / "iter_000" / "start", {}, dict)
    (sweep / "1" / "iter_000" / "start").mkdir(parents=True)
    assert borrow(sweep, "key", sweep / "1" / "iter_000" / "start", "x") is None
    (sweep / "0" / "iter_000" / "start" / "stage.json").write_text("{")
    assert borrow(sweep, "key", sweep / "2" / "iter_000" / "start", "x") is None


def test_a_lender_that_is_gone_is_replaced_by_the_next_that_finishes(sweep):
    begin(job(sweep / "0"))
    begin(job(sweep / "1"))  # borrows, and does not become the lender
    (note,) = (sweep / ".shared").iterdir()
    assert note.read_text() == "0/iter_000/start"
    shutil.rmtree(sweep / "0")
    assert begin(job(sweep / "2"))[0] is True
    assert note.read_text() == "2/iter_000/start" and begin(job(sweep / "3"))[1]["by"] == "2"


def test_a_borrowed_stage_is_held_to_its_inputs_like_any_other(sweep):
    begin(job(sweep / "0"))
    begin(job(sweep / "1"))
    with pytest.raises(StageChanged):
        begin(job(sweep / "1"), {"base": "v2", "learner": {}})


def test_files_that_another_job_takes_away_meanwhile_are_made_anew(sweep, monkeypatch):
    begin(job(sweep / "0"))

    def gone(source: str, target: str) -> None:
        raise FileNotFoundError(source)

    monkeypatch.setattr("parley.run.beginnings._linked", gone)
    assert begin(job(sweep / "1")) == (True, {"snapshot": "iter_000/start/snapshot", "by": "1"})
    assert not (sweep / "1/iter_000/.start.borrowed").exists()
