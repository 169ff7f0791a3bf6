"""Leduc poker learnt online by a tiny model, over seeds: how exploitable every snapshot is, exactly.

    python benchmarks/show_leduc.py FOLDER [seeds=1,2,…]   # runs lie in FOLDER, and go on from there

Each seed begins from imitation of the scripts `uniform` and `loose`, in which there is no equilibrium. Shown are the
exploitability of the start, of the last snapshot and of the average of all snapshots after the start, and the
difference of last and averaged to the start with Student's interval, a seed being a cluster. The claim: both intervals
are below 0. Uniform play has 2.3736. Figures are written after each seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parley.games.exact import Leduc
from parley.games.tree import exploitability, grown, uniform
from parley.report.estimates import estimate
from results import record
from show_kuhn import measured, row
from show_policies import ran

WORDS = ["experiment=leduc_tiny"]
SEEDS = (1, 2, 3)
AT_MOST = 1_000_000  # nodes of the walk


def differences(rows: dict[int, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Of the last and of the averaged policy: exploitability less that of the seed's start."""
    return {
        name: estimate([each[name] - each["start"] for each in rows.values()], range(len(rows))).to_json()
        for name in ("last", "averaged")
    }


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [int(each) for each in sys.argv[2].removeprefix("seeds=").split(",")] if sys.argv[2:] else SEEDS
    tree = grown(Leduc(), AT_MOST)
    by_chance, seeds, cost, claims = exploitability(tree, uniform(tree)), {}, {}, {}
    for seed in wanted:
        cost[seed] = ran(folder / str(seed), [*WORDS, f"seed={seed}"])["cpu_seconds"]
        seeds[seed] = measured(folder, seed, WORDS)
        rows = {each: row(found) for each, found in seeds.items()}
        print(seed, {name: round(value, 4) for name, value in rows[seed].items()}, flush=True)
        changed = differences(rows)
        claims = {
            f"{name} less start: the interval is below 0": len(rows) > 1 and each["high"] < 0
            for name, each in changed.items()
        }
        record(
            "leduc",
            {
                "overrides": WORDS, "uniform": by_chance, "seeds": rows, "less_start": changed, "claims": claims,
                "cpu_seconds": cost,
                "runs_of_revision": json.loads((folder / str(wanted[0]) / "manifest.json").read_text())["git"],
                "by_iteration": {
                    each: {at: told["exploitability"] for at, told in found.items()} for each, found in seeds.items()
                },
            },
        )  # fmt: skip
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
