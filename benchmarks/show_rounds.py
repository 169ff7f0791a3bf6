"""Rounds: twenty rounds in each of two iterations, killed twice inside an iteration and resumed.

    python benchmarks/show_rounds.py FOLDER [override …]   # runs lie in FOLDER, and go on from there

Shown are: the same summary after a kill in play and one in learning; the sampler's against the trainer's log-probs in
all rounds (`old=recorded` refuses a round in which they differ); the CPU time of 20 rounds in one iteration against 20
iterations whose evaluation is cut to one scenario. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import sys
from pathlib import Path

from results import record
from show_kill import figures, kill, playing, start
from show_policies import begin, ran, unlike

START = ["experiment=deal_tiny", "imitate.matches=800", "imitate.validation=20", "seed=1"]
SMALL = [
    "play.scenarios=4", "objective.credit.keep=all", "eval.opponents=[]", "eval.scenarios=16", "eval.greedy=16",
    "eval.validation=8", "learner.checkpoint_s=1",
]  # fmt: skip
ROUNDS = [*SMALL, "iterations=2", "rounds=20"]
CUT = [*SMALL, "eval.scenarios=1", "eval.greedy=1", "eval.validation=1"]
RECORDED = [*SMALL, "iterations=1", "rounds=20", "objective=offline_po", "old=recorded"]


def learning(number: int, each: int, run: Path) -> bool:
    """Round `each` of an iteration was played, and the next one has not begun."""
    play = run / f"iter_{number:03d}/play"
    return (play / f"r{each:03d}/stage.json").exists() and not (play / f"r{each + 1:03d}").exists()


def main() -> None:
    folder, more = Path(sys.argv[1]).resolve(), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    begun = begin(folder / "start", START + more)
    rounds = begun + ROUNDS
    whole, cut = ran(folder / "whole", rounds), folder / "cut"
    if not (cut / "summary.json").exists():
        kill(start(cut, rounds), cut, playing("iter_001/play/r003"), 0.0)
        kill(start(cut, rounds), cut, lambda run: learning(2, 2, run), 0.05)
    resumed = ran(cut, rounds)
    kills = (folder / "cut.log").read_text().count("chat template:") - 1  # which each start tells once
    agreed = ran(folder / "recorded", begun + RECORDED)
    one = ran(folder / "one", [*begun, *CUT, "iterations=1", "rounds=20"])
    many = ran(folder / "many", [*begun, *CUT, "iterations=20"])
    claims = {
        "killed twice inside an iteration, the same summary": kills == 2
        and not unlike(figures(resumed), figures(whole)),
        "recorded log-probs are the trainer's in every round": len(agreed["iterations"]) == 2,
        "twenty rounds cost less than twenty iterations": one["cpu_seconds"] < many["cpu_seconds"],
    }
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    spent = {"one iteration of 20 rounds": one["cpu_seconds"], "20 iterations": many["cpu_seconds"]}
    del sys.argv[1:]  # results name no folder of this machine
    record("rounds", {"overrides": START + ROUNDS + more, "kills": kills, "claims": claims, "cpu_seconds": spent})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
