"""Ratings: Bradley-Terry against L-BFGS, its bootstrap's coverage and speed, cycles; with runs, a tournament of six.

    python benchmarks/show_ratings.py [RUN RUN]   # two runs of Kuhn poker: their kept snapshots and four scripts meet

Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from parley.report.ratings import ELO, Meeting, Ratings, rate
from results import record

ROLES = ("first", "second")
TRUE = {"a": 0.0, "b": 60.0, "c": 120.0, "d": 200.0, "e": 260.0, "f": 330.0}
SEAT = 40.0  # points that the first seat is worth
TOURNAMENTS = 200
SCRIPTS = ("uniform", "loose", "bold", "nash")


def chance(lead: float) -> float:
    return 1 / (1 + math.exp(-lead / ELO))


def tournament(clusters: int, seed: int, luck: float = 0.5) -> list[Meeting]:
    """Six members of known ratings; a scenario favours the same side of a pair in both of its matches."""
    drawn, found = random.Random(seed), []
    for one, other in combinations(TRUE, 2):
        lucky = [drawn.gauss(0, luck) * ELO for _ in range(clusters)]
        for role, sign in zip(ROLES, (1, -1), strict=True):
            lead = TRUE[one] - TRUE[other] + sign * SEAT
            won = {f"c{k}": (1, float(drawn.random() < chance(lead + each))) for k, each in enumerate(lucky)}
            found.append(Meeting(one, other, role, won))
    return found


def lbfgs(found: list[Meeting]) -> dict[str, float]:
    """The same likelihood and prior, by torch's L-BFGS; ratings in points, the first member's 0."""
    names = list(TRUE)
    theta = torch.zeros(len(names) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    ones, others = (
        [names.index(name) for name in each] for each in zip(*((m.one, m.other) for m in found), strict=True)
    )
    seat = torch.tensor([1.0 if each.role == "first" else -1.0 for each in found], dtype=torch.float64)
    n, s = (
        torch.tensor([sum(p[at] for p in m.clusters.values()) for m in found], dtype=torch.float64) for at in (0, 1)
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logit = theta[ones] - theta[others] + seat * theta[-1]
        log = torch.nn.functional.logsigmoid
        total = -(s * log(logit) + (n - s) * log(-logit)).sum() - 0.5 * (log(theta) + log(-theta)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return {name: float(theta[at] - theta[0]) * ELO for at, name in enumerate(names)}


def covered(settled: Ratings) -> float:
    """The share of intervals, over repeated tournaments, that hold the rating of one without end."""
    inside = 0
    for seed in range(TOURNAMENTS):
        rated = rate(tournament(64, seed), "a", ROLES, seed, 300)
        inside += sum(low <= settled.elo[name][0] <= high for name, (_, low, high) in rated.elo.items() if name != "a")
    return inside / TOURNAMENTS / (len(TRUE) - 1)


def circle() -> Ratings:
    """rock, paper, scissors, each of which beats one and loses to one in eight of ten matches."""
    drawn, found = random.Random(0), []
    for one, other in (("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")):
        for role in ROLES:
            found.append(Meeting(one, other, role, {f"c{k}": (1, float(drawn.random() < 0.8)) for k in range(200)}))
    return rate(found, "rock", ROLES, 0, 500)


def six(runs: list[str]) -> dict[str, Any]:
    """The kept snapshots of two runs and four scripts."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "experiment=kuhn_tiny", "task=tournament", f"runs=[{','.join(str(Path(each).resolve()) for each in runs)}]",
            "task.which=kept", f"eval.opponents=[{','.join(SCRIPTS)}]", f"hydra.run.dir={folder}/met",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "parley", *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads((Path(folder) / "met/ratings.json").read_text())
    return found


def main() -> None:
    runs = sys.argv[1:]
    found = tournament(128, 1)
    began = time.process_time()
    mine, thousand = rate(found, "a", ROLES, 0, 1000), time.process_time() - began
    began = time.process_time()
    theirs, once = lbfgs(found), time.process_time() - began
    apart = max(abs(mine.elo[name][0] - 1000 - each) for name, each in theirs.items())
    coverage = covered(rate(tournament(20_000, 999), "a", ROLES, 0, 0))
    turning = circle()
    figures: dict[str, Any] = {
        "members": TRUE, "fit": {name: each for name, each in mine.elo.items()}, "seat": mine.seat, "apart_elo": apart,
        "cpu_seconds": {"1000 bootstrap fits": round(thousand, 3), "one L-BFGS fit": round(once, 3)},
        "coverage": coverage, "tournaments": TOURNAMENTS, "cyclic": {"line": mine.cyclic, "circle": turning.cyclic},
    }  # fmt: skip
    claims = {
        "ratings equal L-BFGS to 0.01 points": apart < 0.01,
        "95 % intervals cover 92 to 98 % (64 clusters)": 0.92 <= coverage <= 0.98,
        "a circle is told from a line": turning.misleading and not mine.misleading,
    }
    if runs:
        figures["six"] = six(runs)
        claims["six members of two runs and scripts are rated"] = len(figures["six"]["ratings"]) == 6
    print(f"apart from L-BFGS by {apart:.1e} points; coverage {coverage:.3f}")
    print(f"cyclic share of a line {mine.cyclic:.2f}, of a circle {turning.cyclic:.2f}")
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    record("ratings", {**figures, "claims": claims})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
