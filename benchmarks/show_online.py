"""Online learning on Deal: against filtered cloning at equal matches, and a format that collapses with guards off.

    python benchmarks/show_online.py FOLDER [part …]    # runs lie in FOLDER, and go on from there; parts as below

    coop, self   online (40 rounds of 128 matches, one step each) and filtered cloning (5 rounds of 1,024) from one
                 imitated start a seed, the last snapshots paired by scenario on the test split
    collapse     illegal replies left out at a rate that breaks the format, with guards off and on

Nothing is claimed of who wins: differences are stored with their intervals, and CPU-seconds beside them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parley.report.compare import compare
from results import record
from show_policies import ran

EVAL = ["eval.scenarios=192", "eval.greedy=1", "eval.validation=64", "eval.opponents=[]", "learner.checkpoint_s=20"]
SEEDS = {"coop": range(5), "self": range(3), "collapse": range(3)}
GAMES = {"coop": ("deal_online", "deal_tiny", "joint_score"), "self": ("deal_online_self", "deal_tiny_self", "score")}
BREAKING = [
    "play.scenarios=8", "iterations=8", "rounds=5", "learner.optimizer.lr=1e-3", "objective.credit.illegal=null",
]  # fmt: skip


def imitated(folder: Path, seed: int) -> list[str]:
    """Words that begin a run at the seed's imitated start, which all runs of the seed share."""
    ran(folder / "start", ["experiment=deal_tiny", f"seed={seed}", *EVAL, "iterations=0"])
    return [
        "model=hf",
        f"model.path={folder / 'start/iter_000/start/snapshot'}",
        "imitate.matches=0",
        "imitate.validation=0",
    ]


def against_cloning(folder: Path, part: str, seed: int) -> dict[str, Any]:
    """The figures of both at one seed, and the paired difference of their last snapshots."""
    online, cloning, metric = GAMES[part]
    begin = [*imitated(folder, seed), f"seed={seed}", *EVAL]
    runs = {
        "online": ran(folder / part / "online", [f"experiment={online}", *begin, "iterations=2"]),
        "cloning": ran(folder / part / "cloning", [f"experiment={cloning}", *begin]),
    }
    ends = [f"{folder / part / name}@{len(each['iterations']) - 1}" for name, each in runs.items()]
    [difference] = [each for each in compare(ends, [metric], "scenario") if each.mode == "sampled"]
    return {
        "seed": seed,
        "cpu_seconds": {name: each["cpu_seconds"] for name, each in runs.items()},
        "matches": {name: sum(row["policies"]["learner"]["play"].get("matches", 0) for row in each["iterations"])
                    for name, each in runs.items()},
        "curves": {name: curve(each, metric) for name, each in runs.items()},
        "cloning less online": asdict(difference.difference),
    }  # fmt: skip


def collapse(folder: Path, seed: int) -> dict[str, Any]:
    """The joint score by iteration with guards off and on."""
    begin = [*imitated(folder, seed), f"seed={seed}", *EVAL, "experiment=deal_online", *BREAKING]
    found = {name: ran(folder / "collapse" / name, [*begin, f"guards={name}"]) for name in ("none", "online")}
    return {"seed": seed, "curves": {name: curve(each, "joint_score") for name, each in found.items()}}


def curve(summary: dict[str, Any], metric: str) -> list[list[float]]:
    """[mean, low, high] of sampled self-play by iteration."""
    rows = [row["policies"]["learner"]["sampled"][metric] for row in summary["iterations"]]
    return [[row["mean"], row["low"], row["high"]] for row in rows]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    parts = sys.argv[2:] or list(SEEDS)
    del sys.argv[1:]  # results name no folder of this machine
    found: dict[str, list[Any]] = {}
    for part in parts:
        for seed in SEEDS[part]:
            mine = folder / f"seed{seed}"
            (mine / part).mkdir(parents=True, exist_ok=True)
            found.setdefault(part, []).append(
                collapse(mine, seed) if part == "collapse" else against_cloning(mine, part, seed)
            )
            record("online", {"settings": {"eval": EVAL, "collapse": BREAKING}, **found})


if __name__ == "__main__":
    main()
