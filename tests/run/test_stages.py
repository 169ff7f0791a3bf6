"""Stages: skipped when finished, refused when made from other inputs, called again when cut off."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parley.run.stages import StageChanged, part, stage
from parley.system.files import InputError


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


def test_the_time_of_attempts_that_were_cut_off_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt ends in an error, one is killed while it works; both have spent what the third adds its own to."""
    folder = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        stage(folder, {}, lambda: busy(0.3, KeyboardInterrupt))
    code = f"""
import time
from pathlib import Path
from parley.run import stages
stages.TICK_S = 0.05
def work():
    while True:
        sum(range(1000))
stages.stage(Path({str(folder)!r}), {{}}, work)
"""
    [first] = notes(folder)
    child = subprocess.Popen([sys.executable, "-c", code])
    while sum(cpu for _, cpu in notes(folder)) < first[1] + 0.3:
        time.sleep(0.01)
    child.kill()
    child.wait()
    spent = tuple(map(sum, zip(*notes(folder), strict=True)))
    done = stage(folder, {}, lambda: busy(0.2))
    assert first[1] >= 0.3 and spent[1] >= 0.6 and done.earlier == pytest.approx(spent) and not done.skipped
    assert spent[1] + 0.2 <= done.cpu_seconds < spent[1] + 0.4 and done.seconds > spent[0] + 0.19
    again = stage(folder, {}, lambda: busy(9))
    assert again.skipped and again.earlier == (again.seconds, again.cpu_seconds)
    assert again.earlier == pytest.approx((done.seconds, done.cpu_seconds), abs=1e-3)
    assert [path.name for path in folder.iterdir()] == ["stage.json"]


def test_a_named_part_counts_within_its_own_stage_only(tmp_path: Path) -> None:
    def inner() -> None:
        with part("handover"):
            time.sleep(0.02)
        with part("handover"):
            time.sleep(0.02)

    def outer() -> None:
        stage(tmp_path / "outer/inner", {}, inner)
        with part("credit"):
            time.sleep(0.03)

    done = stage(tmp_path / "outer", {}, outer)
    within = stage(tmp_path / "outer/inner", {}, inner)
    assert list(done.parts) == ["credit"] and 0.03 <= done.parts["credit"] <= done.seconds
    assert within.skipped and list(within.parts) == ["handover"] and 0.04 <= within.parts["handover"] <= within.seconds


def test_a_manifest_with_parts_that_are_no_seconds_is_refused(tmp_path: Path) -> None:
    stage(tmp_path, {}, dict)
    for parts in ('["a"]', '{"handover": "long"}'):
        told = json.loads((tmp_path / "stage.json").read_text()) | {"parts": json.loads(parts)}
        (tmp_path / "stage.json").write_text(json.dumps(told))
        with pytest.raises(InputError, match="no manifest of a stage"):
            stage(tmp_path, {}, dict)


def notes(folder: Path) -> list[list[float]]:
    """What has been noted of each attempt: wall and CPU seconds."""
    return [json.loads(path.read_text()) for path in folder.glob(".spent-0-*") if path.suffix != ".tmp"]


def busy(seconds: float, error: type[BaseException] | None = None) -> None:
    """Spends CPU seconds."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))
    if error is not None:
        raise error
