"""The memory of a round that grows tenfold: scripted matches, played, scored and credited by the loop's own code.

    python benchmarks/play_memory.py [--matches 10000 100000] [--no-record]

Cooperative Deal, the script `fair` in both seats, the scorer `rules`, credit above the mean of the round. Each number
of matches is played in a process and a run directory of its own; measured is the peak of its resident set, imports
included, and what it was before the first match. Fails where the last peak is more than 1.2 times the first. Writes
docs/results/play_memory.json; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import record

BAR = 1.2
SCRIPT = "fair"


def round_of(matches: int, out: Path) -> dict[str, Any]:
    """Plays, scores and credits one round; returns its figures."""
    from hydra import compose, initialize_config_module
    from parley.models.snapshot import Snapshot
    from parley.report.progress import Progress
    from parley.run.build import build
    from parley.run.loop import Loop
    from rich.console import Console

    words = [
        f"players.default={SCRIPT}",
        f"play.scenarios={matches}",
        "play.group=1",
        "imitate.matches=0",
        "scorer=rules",
    ]
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose(
            "config", ["game=deal", "objective.credit.keep=above_avg", "objective.credit.score=return", *words]
        )
    loop = Loop(build(config, out), out, Progress(Console(quiet=True)))
    before, clock = peak(), time.process_time()
    played = loop.self_play(1, Snapshot("nobody", ""))
    scores = loop.scoring.score("iter_001/play")
    credited = loop.parts.credit(loop.scoring.matches("iter_001/play"), SCRIPT)
    assert scores and credited.kept and len(credited.table) == 2 * played["matches"] == 2 * matches
    return {
        "matches": matches,
        "before_mib": before,
        "peak_mib": peak(),
        "cpu_seconds": round(time.process_time() - clock, 1),
        "stored_mib": round(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20),
        "logs": len(credited.table),
        "kept": credited.kept,
        "joint_score": played["figures"]["joint_score"]["mean"],
    }


def peak() -> float:
    """The peak of this process's resident set so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def measured(matches: int) -> dict[str, Any]:
    """`round_of` in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--child", out, "--matches", str(matches)]
        return json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--matches", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--child", type=Path, help="the run directory of a process that measures")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(round_of(asked.matches[0], asked.child)))
        return
    rows = []
    for matches in asked.matches:
        rows.append(measured(matches))
        print(json.dumps(rows[-1]), flush=True)
    figures = {"ratio": round(rows[-1]["peak_mib"] / rows[0]["peak_mib"], 3), "bar": BAR, "rounds": rows}
    if not asked.no_record:
        record("play_memory", figures)
    print(json.dumps(figures))
    sys.exit(figures["ratio"] > BAR)


if __name__ == "__main__":
    main()
