"""The default experiment learns with backend=vllm as it does with backend=hf: one seed, held against the recorded seeds of hf.

    .venv-vllm/bin/python benchmarks/show_vllm.py                 # a run of its own (make test-vllm sets the environment up)
    .venv-vllm/bin/python benchmarks/show_vllm.py path/of/a/run   # reads a run that was made before

Both backends imitate alike, so the start has the same weights, and greedily it plays the same matches but for rounding.
Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from parley.models import vllm_engine
from results import ROOT, record
from show_learning import JOINT, rows

SEED = 1
APART = 0.5  # points of joint score that one seed may end below the lowest of hf's: the 95 % interval of 256 sampled matches


def claims(mine: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, bool]:
    """What is claimed of a run's row, beside the rows of hf."""
    twin = next(row for row in others if row["seed"] == mine["seed"])
    lowest = {part: min(row[part][JOINT] for row in others) for part in ("last", "last greedy")}
    return {
        "the start is hf's: greedy joint scores less than 0.1 apart": abs(mine["start greedy"][JOINT] - twin["start greedy"][JOINT]) < 0.1,
        "sampled joint score of the last iteration: at least 12, and double the start": (
            mine["last"][JOINT] >= max(12, 2 * mine["start"][JOINT])
        ),
        f"sampled and greedy, it ends at most {APART} below the lowest of hf's seeds": all(
            mine[part][JOINT] >= lowest[part] - APART for part in lowest
        ),
        "agreement at least 0.95": mine["last"]["agreement_rate"] >= 0.95,
        "greedy gain over the start, paired: the interval above 0": mine["greedy_gain"]["low"] > 0,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(sys.argv[1] if len(sys.argv) > 1 else f"{scratch}/run")
        if len(sys.argv) <= 1:
            words = ["backend=vllm", f"seed={SEED}", f"hydra.run.dir={run}"]
            subprocess.run([sys.executable, "-m", "parley", *words], check=True)
        summary, config = json.loads((run / "summary.json").read_text()), OmegaConf.load(run / "config.yaml")
    if (config.name, config.backend._target_, summary["seed"]) != ("deal_tiny", "parley.models.vllm.VLLMBackend", SEED):
        sys.exit(f"{run} is no run of deal_tiny with backend=vllm seed={SEED}")
    (mine,) = rows([summary])
    hf = json.loads((ROOT / "docs" / "results" / "deal_tiny.json").read_text())
    held = claims(mine, hf["seeds"])
    print(json.dumps(mine))
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    parts = ("start", "start greedy", "last", "last greedy")
    figures = {row["seed"]: {part: row[part][JOINT] for part in parts} for row in hf["seeds"]}
    compared = {"revision": hf["revision"], JOINT: figures}
    record("deal_tiny_vllm", {"vllm": vllm_engine.available(), "claims": held, "vllm_run": mine, "hf": compared})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
