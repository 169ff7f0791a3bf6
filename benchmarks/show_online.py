"""Online learning on Deal: against filtered cloning at equal matches, and a format that collapses with guards off.

    python benchmarks/show_online.py FOLDER [part …] [seeds=0,1,…]   # runs lie in FOLDER, and go on from there

    coop, self   online (40 rounds of 128 matches, one step each) and filtered cloning (5 rounds of 1,024) from one
                 imitated start a seed, the last snapshots paired by scenario on the test split
    steps        coop with about four optimiser steps a round
    bare         self without the penalty that holds the policy to its start
    collapse     illegal replies left out at a rate that breaks the format, with guards off and on

Of the first four nothing is claimed: differences are stored with their intervals, and CPU-seconds beside them. Of the
collapse it is claimed that without guards the score ends under its start, and that with them at least half of the best
gain is there at the end, while steps are still taken. Parts that were run before keep their figures.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parley.data.store import EpisodeStore
from parley.report.compare import compare
from parley.report.estimates import summarise
from parley.report.run import summary
from results import ROOT, record
from show_policies import ran

EVAL = ["eval.scenarios=192", "eval.greedy=1", "eval.validation=64", "eval.opponents=[]", "learner.checkpoint_s=20"]
SEEDS = {"coop": range(5), "steps": range(3), "self": range(3), "bare": range(3), "collapse": range(3)}
STEPS = ["learner.batch_utterances=175"]
BARE = ["objective.loss.kl_coef=0", "objective.credit.zeros=false"]
GAMES = {  # part -> (words of the online run, part that has the cloning run beside it, its experiment, metric)
    "coop": (["experiment=deal_online"], "coop", "deal_tiny", "joint_score"),
    "steps": (["experiment=deal_online", *STEPS], "coop", "deal_tiny", "joint_score"),
    "self": (["experiment=deal_online_self"], "self", "deal_tiny_self", "score"),
    "bare": (["experiment=deal_online_self", *BARE], "self", "deal_tiny_self", "score"),
}
BREAKING = [
    "play.scenarios=8", "iterations=8", "rounds=5", "learner.optimizer.lr=1e-3", "objective.credit.illegal=null",
]  # fmt: skip


STORED = ROOT / "docs" / "results" / "online.json"
NOTHING = "credit kept nothing"


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
    online, beside, cloning, metric = GAMES[part]
    begin = [*imitated(folder, seed), f"seed={seed}", *EVAL]
    places = {"online": folder / part / "online", "cloning": folder / beside / "cloning"}
    places["cloning"].parent.mkdir(exist_ok=True)
    runs = {
        "online": ran(places["online"], [*online, *begin, "iterations=2"]),
        "cloning": ran(places["cloning"], [f"experiment={cloning}", *begin]),
    }
    ends = [f"{places[name]}@{len(each['iterations']) - 1}" for name, each in runs.items()]
    [difference] = [each for each in compare(ends, [metric], "scenario") if each.mode == "sampled"]
    return {
        "seed": seed,
        "cpu_seconds": {name: each["cpu_seconds"] for name, each in runs.items()},
        "matches": {name: sum(row["policies"]["learner"]["play"].get("matches", 0) for row in each["iterations"])
                    for name, each in runs.items()},
        "curves": {name: curve(each, metric) for name, each in runs.items()},
        "cloning less online": asdict(difference.difference),
    }  # fmt: skip


def ended(run: Path, words: list[str]) -> str:
    """Plays a run to its end, and says how it ended: at its last iteration, or with no reply left to learn from."""
    if f"{NOTHING} to train on" in log_of(run):
        return NOTHING
    try:
        ran(run, words)
    except SystemExit:
        if NOTHING not in log_of(run):
            raise
        return NOTHING
    return "at its last iteration"


def log_of(run: Path) -> str:
    log = run.parent / f"{run.name}.log"
    return log.read_text() if log.exists() else ""


def collapse(folder: Path, seed: int) -> dict[str, Any]:
    """The joint score by iteration with guards off and on, and whether the two claims hold."""
    begin = [*imitated(folder, seed), f"seed={seed}", *EVAL, "experiment=deal_online", *BREAKING]
    runs = {name: folder / "collapse" / name for name in ("none", "online")}
    row: dict[str, Any] = {"seed": seed}
    for name, run in runs.items():
        row[name] = {
            "ended": ended(run, [*begin, f"guards={name}"]),
            "curve": stored_curve(run, "joint_score"),
            "steps_by_iteration": steps(run),
        }
    off, on = ([mean for mean, *_ in row[name]["curve"]] for name in runs)
    row["alarms"] = [each.alarms for each in summary(runs["online"]).iterations]
    row["claims"] = {
        "guards off: falls under its start": off[-1] < off[0],
        "guards on: half of the best gain is there at the end": on[-1] - on[0] >= (max(on) - on[0]) / 2 > 0,
        "guards on: steps are taken in the last iteration": steps(runs["online"])[-1] > 0,
    }
    return row


def stored_curve(run: Path, metric: str) -> list[list[float]]:
    """[mean, low, high] of sampled self-play by iteration, from the stored matches: a run that stopped has them too."""
    curve = []
    for folder in sorted(run.glob("iter_*/eval/sampled")):
        found = summarise(EpisodeStore(folder, shard=None).read())[metric]
        assert found is not None
        curve.append([round(value, 4) for value in (found.mean, found.low, found.high)])
    return curve


def steps(run: Path) -> list[int]:
    """Optimiser steps of each iteration's rounds."""
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    last = max(row["iteration"] for row in rows)
    return [sum(row.get("steps", 0) for row in rows if row["iteration"] == each) for each in range(1, last + 1)]


def curve(ended: dict[str, Any], metric: str) -> list[list[float]]:
    """[mean, low, high] of sampled self-play by iteration."""
    rows = [row["policies"]["learner"]["sampled"][metric] for row in ended["iterations"]]
    return [[row["mean"], row["low"], row["high"]] for row in rows]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    chosen = [word for word in sys.argv[2:] if word.startswith("seeds=")]
    parts = [word for word in sys.argv[2:] if word not in chosen] or list(SEEDS)
    if unknown := set(parts) - SEEDS.keys():
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(SEEDS)}")
    del sys.argv[1:]  # results name no folder of this machine
    before = json.loads(STORED.read_text()) if STORED.exists() else {}
    found: dict[str, list[Any]] = {part: each for part, each in before.items() if part in SEEDS and part not in parts}
    for part in parts:
        for seed in map(int, chosen[0][6:].split(",")) if chosen else SEEDS[part]:
            mine = folder / f"seed{seed}"
            (mine / part).mkdir(parents=True, exist_ok=True)
            found.setdefault(part, []).append(
                collapse(mine, seed) if part == "collapse" else against_cloning(mine, part, seed)
            )
            record("online", {"settings": {"eval": EVAL, "steps": STEPS, "bare": BARE, "collapse": BREAKING}, **found})


if __name__ == "__main__":
    main()
