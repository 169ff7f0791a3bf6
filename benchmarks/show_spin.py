"""SPIN on the made language, against as many steps of further fine-tuning on the same real texts from the same start.

    python benchmarks/show_spin.py                 # three seeds of each, two jobs at a time (needs the extra `sweeps`)
    python benchmarks/show_spin.py path/of/sweeps  # reads sweeps that were run before

Measured by iteration: KL(language || model) in nats a reply on held-out prompts, by how much it has fallen since the
start (paired by prompt), and the share of sampled replies that the grammar accepts. What is claimed is that SPIN
improves both; the control stands beside it. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parley.report.estimates import estimate
from results import record, summary_of

SEEDS = (0, 1, 2)
SIDES = {"spin": [], "sft": ["objective=sft", "learner.batch_utterances=32"]}  # a pair is two utterances: as many steps
Rows = Sequence[Mapping[str, Any]]


def sweep(side: str, folder: Path) -> None:
    """Two jobs at a time on two cores; each job stays a single thread."""
    words = [
        "experiment=spin_tiny",
        *SIDES[side],
        "seed=" + ",".join(map(str, SEEDS)),
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]
    subprocess.run([sys.executable, "-m", "parley", "-m", *words, f"hydra.sweep.dir={folder}"], check=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """One row for each seed: the figures of every iteration."""
    runs = sorted((summary_of(path.parent) for path in folder.glob("*/summary.json")), key=lambda run: run["seed"])
    if [run["seed"] for run in runs] != list(SEEDS):
        sys.exit(f"{folder} holds the finished seeds {[run['seed'] for run in runs]}, expected {list(SEEDS)}")
    kept = ("seed", "seconds", "cpu_seconds")
    return [{**{key: run[key] for key in kept}, "iterations": [*map(_figures, run["iterations"])]} for run in runs]


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    told, learned = row["demonstrations"], row.get("learn") or {}
    return {
        "snapshot": row["snapshot"], "kl": told["kl"], "gain": told.get("gain"),
        "accepted_rate": row["sampled"]["accepted_rate"],
        "accepted_greedy": row["greedy"]["accepted_rate"], "steps": learned.get("steps"), "loss": learned.get("loss"),
        "accuracy": learned.get("rewards/accuracies"), "entropy": row["language"]["entropy"],
    }  # fmt: skip


def over_seeds(found: Rows, name: str, at: int) -> dict[str, Any]:
    """Mean over the seeds of a figure after iteration `at`, and of its change since the start (Student, seeds as the
    only spread)."""
    last, first = ([run["iterations"][number][name]["mean"] for run in found] for number in (at, 0))
    change = [after - before for after, before in zip(last, first, strict=True)]
    return {
        "mean": estimate(last, range(len(last))).to_json(),
        "change": estimate(change, range(len(change))).to_json(),
    }


def claims(spin: Rows, sft: Rows) -> dict[str, bool]:
    ends = [run["iterations"][-1] for run in spin]
    starts = [[run["iterations"][0]["snapshot"] for run in side] for side in (spin, sft)]
    steps = [[row["steps"] for run in side for row in run["iterations"]] for side in (spin, sft)]
    return {
        "the control begins at the same snapshots": starts[0] == starts[1],
        "and makes as many steps, to 3 %": all(
            abs(one - other) <= 0.03 * other for one, other in zip(*steps, strict=True)
        ),
        "three iterations": all(len(run["iterations"]) == 4 for run in spin),
        "SPIN brings every seed nearer to the language: fall of KL, paired interval above 0": all(
            end["gain"]["low"] > 0 for end in ends
        ),
        "and the share of accepted replies up in every seed, intervals apart": all(
            run["iterations"][-1]["accepted_rate"]["low"] > run["iterations"][0]["accepted_rate"]["high"]
            for run in spin
        ),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        if len(sys.argv) == 1:
            for side in SIDES:
                sweep(side, root / side)
        found = {side: rows(root / side) for side in SIDES}
    for side, runs in found.items():
        for run in runs:
            for number, row in enumerate(run["iterations"]):
                kl, gain, accepted = (
                    row["kl"],
                    row["gain"] or {"mean": 0.0, "low": 0.0, "high": 0.0},
                    row["accepted_rate"],
                )
                print(
                    f"{side:5} seed {run['seed']} iteration {number}: kl {kl['mean']:.3f} [{kl['low']:.3f}, "
                    f"{kl['high']:.3f}], fallen by "
                    f"{gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}], accepted {accepted['mean']:.3f} "
                    f"[{accepted['low']:.3f}, {accepted['high']:.3f}]"
                )
    held = claims(found["spin"], found["sft"])
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    names = ("kl", "accepted_rate")
    table = {
        side: {name: [over_seeds(runs, name, at) for at in range(4)] for name in names} for side, runs in found.items()
    }
    del sys.argv[1:]  # results name no folder of this machine
    record("spin_tiny", {"experiment": "spin_tiny", "claims": held, "over_seeds": table, "seeds": found})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
