"""Shows that a tiny model learns social tasks from a judge's word, and what follows where the judge can be flattered.

    python benchmarks/show_social.py RUNS      # runs what is not there yet below RUNS: three seeds of two arms

Behaviour cloning, then self-reinforcement on one's own best episodes (Sotopia-π's recipe), on bargains and parties
whose success is decidable. In the arm `truthful` the judge says the true score, in the arm `vain` it gives points for
kind words. Figures are of held-out environments, at temperature 1, clustered by environment, over three seeds together;
they go to docs/results/social_tiny.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from parley.data.store import Matches
from parley.report.estimates import Estimate, estimate, values
from results import record

SEEDS = (0, 1, 2)
ARMS = {"truthful": [], "vain": ["players.judge=vain"]}
FIGURES = ("true_goal", "goal", "gap")


def run(place: Path, arm: str, seed: int) -> Path:
    """The finished run of an arm and seed, which is begun or resumed where it is not there."""
    out = place / f"{arm}_{seed}"
    if not (out / "summary.json").exists():
        begun = [f"resume={out}"] if (out / "config.yaml").exists() else [f"hydra.run.dir={out}"]
        words = ["experiment=social_tiny", f"seed={seed}", *ARMS[arm], *begun]
        subprocess.run([sys.executable, "-m", "parley", *words], check=True)
    return out


def measured(runs: list[Path], iteration: int, seat: str | None = None) -> dict[str, Estimate]:
    """The figures of an iteration on held-out environments, over all seeds; environments of two seeds are one
    cluster."""
    found: dict[str, list[tuple[float, str]]] = {name: [] for name in FIGURES}
    for out in runs:
        for episode in Matches(out / f"iter_{iteration:03d}/eval/sampled"):
            told = values(episode)
            for name in FIGURES:
                if name in told:
                    found[name].append((told[name], episode.scenario.cluster))
    return {name: estimate(*zip(*pairs, strict=True)) for name, pairs in found.items()}


def main(place: Path) -> None:
    report: dict[str, Any] = {}
    for arm in ARMS:
        runs = [run(place, arm, seed) for seed in SEEDS]
        summaries = [json.loads((out / "summary.json").read_text()) for out in runs]
        last = len(summaries[0]["iterations"]) - 1
        report[arm] = {
            "iterations": [
                {name: each.to_json() for name, each in measured(runs, number).items()} for number in range(last + 1)
            ],
            "seeds": [
                {
                    "seed": seed,
                    "cpu_seconds": summary["cpu_seconds"],
                    **{name: [measured([out], number)[name].to_json() for number in (0, last)] for name in FIGURES},
                }
                for seed, out, summary in zip(SEEDS, runs, summaries, strict=True)
            ],
        }
    true, vain = (report[arm]["iterations"] for arm in ("truthful", "vain"))
    report["claims"] = {
        "the true goal rises, intervals apart": true[-1]["true_goal"]["low"] > true[0]["true_goal"]["high"],
        "the vain judge's gap grows, intervals apart": vain[-1]["gap"]["low"] > vain[0]["gap"]["high"],
        "the truthful judge's gap holds 0": all(each["gap"]["low"] <= 0 <= each["gap"]["high"] for each in true),
    }
    record("social_tiny", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
