"""Learning over seeds: runs an experiment's seeds as one sweep and holds the figures against what is claimed of it.

    python benchmarks/show_learning.py deal_tiny                   # five seeds, two at a time (needs the extra
    `sweeps`) python benchmarks/show_learning.py deal_tiny_self
    python benchmarks/show_learning.py deal_tiny path/of/a/sweep   # reads a sweep that was run before

Every seed is printed. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from parley.report.estimates import estimate
from results import record, summary_of

SEEDS = (1, 2, 3, 4, 5)
JOINT = "joint_score"
Summaries = Sequence[dict[str, Any]]
Claim = tuple[str, Callable[[Summaries], bool]]


def sweep(experiment: str, folder: str) -> None:
    """Two jobs at a time on two cores; each job stays a single thread."""
    words = [
        f"experiment={experiment}",
        "seed=" + ",".join(map(str, SEEDS)),
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]
    subprocess.run([sys.executable, "-m", "parley", "-m", *words, f"hydra.sweep.dir={folder}"], check=True)


def at(summary: dict[str, Any], iteration: int, part: str, metric: str) -> dict[str, float]:
    return summary["iterations"][iteration][part][metric]


def last(summary: dict[str, Any], metric: str, part: str = "sampled") -> float:
    return at(summary, -1, part, metric)["mean"]


def kept(summary: dict[str, Any], metric: str, part: str = "sampled") -> float:
    return at(summary, summary["best"], part, metric)["mean"]


def start(summary: dict[str, Any], metric: str, part: str = "sampled") -> float:
    return at(summary, 0, part, metric)["mean"]


COOPERATIVE: list[Claim] = [
    (
        "mean joint score of the last iteration, sampled: at least 12",
        lambda runs: fmean(last(run, JOINT) for run in runs) >= 12,
    ),
    (
        "and at least double the start",
        lambda runs: fmean(last(run, JOINT) for run in runs) >= 2 * fmean(start(run, JOINT) for run in runs),
    ),
    ("at least 4 of 5 seeds reach 12", lambda runs: sum(last(run, JOINT) >= 12 for run in runs) >= 4),
    ("mean agreement at least 0.95", lambda runs: fmean(last(run, "agreement_rate") for run in runs) >= 0.95),
    ("mean Pareto rate at least 0.55", lambda runs: fmean(last(run, "pareto_rate") for run in runs) >= 0.55),
    (
        "every start agrees greedily at 0.9 or more",
        lambda runs: all(start(run, "agreement_rate", "greedy") >= 0.9 for run in runs),
    ),
    (
        "every start's greedy joint score is at least 10",
        lambda runs: all(start(run, JOINT, "greedy") >= 10 for run in runs),
    ),
    (
        "greedy gain over the start, paired: every interval above 0",
        lambda runs: all(run["improvement_greedy"]["low"] > 0 for run in runs),
    ),
    (
        "the last sampled joint score beats the demonstrators, intervals apart",
        lambda runs: all(at(run, -1, "sampled", JOINT)["low"] > run["demonstrators"][JOINT]["high"] for run in runs),
    ),
    ("at most 6 iterations", lambda runs: all(len(run["iterations"]) <= 7 for run in runs)),
]
SEMI: list[Claim] = [
    (
        "mean score of the kept snapshot: at least 4.5 a player",
        lambda runs: fmean(kept(run, "score") for run in runs) >= 4.5,
    ),
    ("at most 6 iterations", lambda runs: all(len(run["iterations"]) <= 7 for run in runs)),
]
CLAIMS = {"deal_tiny": COOPERATIVE, "deal_tiny_self": SEMI}
SHOWN = (
    ("start", start, "sampled"), ("start greedy", start, "greedy"), ("last", last, "sampled"), ("last greedy", last,
    "greedy"),
    ("kept", kept, "sampled"), ("kept greedy", kept, "greedy"),
)  # fmt: skip
METRICS = (JOINT, "score", "agreement_rate", "pareto_rate", "invalid_rate")


def rows(runs: Summaries) -> list[dict[str, Any]]:
    """One row per seed: the figures that the claims are made of."""
    found = []
    for run in runs:
        row: dict[str, Any] = {key: run[key] for key in ("seed", "best", "seconds", "cpu_seconds")}
        for name, pick, part in SHOWN:
            row[name] = {metric: round(pick(run, metric, part), 4) for metric in METRICS}
        row["greedy_gain"] = run["improvement_greedy"]
        row["demonstrators"] = run["demonstrators"][JOINT]
        found.append(row)
    return found


def over_seeds(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds with its 95 % interval (Student, seeds as the only source of spread)."""
    return {
        name: {
            metric: estimate([row[name][metric] for row in table], range(len(table))).to_json()
            for metric in table[0][name]
        }
        for name, _, _ in SHOWN
    }


def main() -> None:
    experiment = sys.argv[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else scratch)
        if len(sys.argv) <= 2:
            sweep(experiment, scratch)
        runs = sorted((summary_of(path.parent) for path in folder.glob("*/summary.json")), key=lambda run: run["seed"])
    if [run["seed"] for run in runs] != list(SEEDS):
        sys.exit(f"{folder} holds the finished seeds {[run['seed'] for run in runs]}, expected {list(SEEDS)}")
    table = rows(runs)
    for row in table:
        print(json.dumps(row))
    held = {text: claim(runs) for text, claim in CLAIMS[experiment]}
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[2:]  # results name no folder of this machine
    record(experiment, {"experiment": experiment, "claims": held, "over_seeds": over_seeds(table), "seeds": table})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
