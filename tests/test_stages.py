"""Stages: skipped when finished, refused when made from other inputs, called again when cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from parley.stages import StageChanged, stage


def test_a_finished_stage_is_not_worked_again(tmp_path: Path) -> None:
    calls: list[int] = []
    first = stage(tmp_path / "s", {"a": 1}, lambda: calls.append(1) or {"figure": 0.1})
    again = stage(tmp_path / "s", {"a": 1}, lambda: calls.append(2))
    assert calls == [1] and not first.skipped and again.skipped
    assert first.outputs == again.outputs == {"figure": 0.1}
    assert again.seconds == pytest.approx(first.seconds, abs=1e-3)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    stage(tmp_path / "s", {"a": 1}, dict)
    with pytest.raises(StageChanged, match="other inputs"):
        stage(tmp_path / "s", {"a": 2}, dict)


def test_a_stage_that_was_cut_off_is_called_again_and_finds_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "s"

    def half() -> None:
        (folder / "half").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(folder, {}, half)
    assert stage(folder, {}, lambda: (folder / "half").read_text()).outputs == "kept"


def test_what_is_returned_is_what_a_resumed_run_reads(tmp_path: Path) -> None:
    """A tuple becomes a list, an int key a string: at once, not only after a resume."""
    assert stage(tmp_path / "s", {}, lambda: {1: (2, 3)}).outputs == {"1": [2, 3]}
