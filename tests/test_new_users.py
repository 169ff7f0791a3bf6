"""The path of a student with a laptop, as a script: a run, its worst match, a sweep, a comparison, an export, and what
Weights & Biases wrote offline. (An engineer's path is in tests/run/test_deal_llm.py.)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/show_sharing.py"


@pytest.mark.slow
def test_a_student_runs_looks_sweeps_compares_and_exports(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    env = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(SCRIPT), str(tmp_path), "only=student", "fast"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "student.json").read_text())
    assert found["lines of the run"] < 100
    assert found["the worst match is shown"] and found["and replayed to the same result"]
    assert found["jobs of the sweep"] == 4 and found["stages that a job took from an earlier one"] >= 4
    assert found["the comparison names what differs"]
    assert found["pages"] == ["sweep/sweep.html", "both/comparison.html"] and found["files of the export"] >= 3
    tracked = found["weights and biases"]
    assert (tracked["name"], tracked["group"], tracked["job type"]) == (
        "deal_tiny-s1",
        tmp_path.name,
        "selfplay",
    )  # a run's folder lies in its experiment's
    assert {"eval", "play", "seconds", "steps", "train"} <= set(tracked["sections"])
    assert {"steps/grad_norm", "steps/loss", "steps/lr", "steps/tokens_per_second"} <= set(tracked["of a step"])
    assert tracked["tables"] == ["transcripts"]
    assert tracked["in the summary"] == ["best", "cpu_seconds", "gain", "kept"]
