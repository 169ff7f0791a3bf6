"""Kuhn poker learnt online by a tiny model, over seeds: how exploitable every snapshot is, exactly.

    python benchmarks/show_kuhn.py FOLDER [seeds=1,2,…]   # runs lie in FOLDER, and go on from there

Each seed begins from imitation of the scripts `uniform` and `loose`, in which there is no equilibrium. Shown are the
exploitability of the start, of the last snapshot and of the average of all snapshots after the start, the least legal
mass, and beside them the exact dynamics of the same method (no model, no sampling) from the mean start. The claim: in
every seed, the last or the averaged policy ends below the start and below 1/3, what always betting has. To aim at: 0.12
and 0.020, the best policy gradient's and NFSP's after ten million episodes, as OpenSpiel's authors report.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from exact_dynamics import steps
from parley.games.exact import Kuhn
from parley.games.exact.kuhn import SCRIPTS
from parley.games.tree import grown, uniform
from parley.report.curves import Curve, chart
from parley.system.files import write_text
from results import ROOT, record
from show_policies import ran

WORDS = ["experiment=kuhn_tiny"]
SEEDS = (1, 2, 3, 4, 5)
ROUNDS, KL = 20, 0.3  # of an iteration; weight of the penalty towards the start: as conf/experiment/kuhn_tiny.yaml says
BOLD = 1 / 3  # exploitability of always betting
AIMS = {"best published policy gradient": 0.12, "NFSP": 0.020}
STYLE = (
    "<style>svg{font:12px sans-serif}.line{fill:none;stroke:#4a6fa5;stroke-width:1.5}.band{fill:#4a6fa5;opacity:.15}"
    ".whisker{stroke:#4a6fa5}.grid{stroke:#ddd}.series-exact .line{stroke:#c0392b;stroke-dasharray:5 3}"
    ".series-averaged .line{stroke:#2e8b57}circle{fill:#4a6fa5;r:2}</style>"
)


def measured(folder: Path, seed: int, words: list[str]) -> dict[str, Any]:
    """The figures of all snapshots of a seed's run, by iteration."""
    out = folder / f"exploit_{seed}"
    if not (out / "exploit.json").exists():
        place = f"resume={out}" if out.exists() else f"hydra.run.dir={out}"
        asked = [*words, "task=exploit", f"run={folder / str(seed)}", f"seed={seed}", place]
        subprocess.run([sys.executable, "-m", "parley", *asked], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((out / "exploit.json").read_text())["iterations"]
    return found


def row(found: dict[str, Any]) -> dict[str, float]:
    """A seed in five numbers."""
    last = list(found.values())[-1]
    return {
        "start": found["0"]["exploitability"],
        "last": last["exploitability"],
        "averaged": last["averaged"],
        "least": min(each["exploitability"] for each in found.values()),
        "value": last["values"]["first"],
        "least_mass": min(each["mass"]["least"] for each in found.values()),
    }


def exact(iterations: int) -> dict[int, float]:
    """The exact dynamics by iteration, from the mean of the scripts that are imitated; a step of rate 1 a round."""
    tree = grown(Kuhn(), 100)
    loose = {info: SCRIPTS["loose"].chances(request) for info, request in tree.requests.items()}  # type: ignore[attr-defined]
    both = zip(loose.items(), uniform(tree).values(), strict=True)
    start = {info: {said: (p + other[said]) / 2 for said, p in own.items()} for (info, own), other in both}
    path = islice(steps(tree, start, KL, None, 1.0), iterations * ROUNDS + 1)
    return {step // ROUNDS: each for step, each in path if step % ROUNDS == 0}


def plot(seeds: dict[int, dict[str, Any]], exactly: dict[int, float]) -> str:
    """The mean over seeds with its range, of the last and of the averaged policy, and the exact dynamics."""

    def curve(key: str, label: str, name: str) -> Curve:
        shared = [
            number for number in next(iter(seeds.values())) if all(name in each[number] for each in seeds.values())
        ]
        points = {}
        for number in shared:
            own = [each[number][name] for each in seeds.values()]
            points[int(number)] = {"mean": mean(own), "low": min(own), "high": max(own)}
        return Curve(key, label, points)

    lines = [curve("last", "last", "exploitability"), curve("averaged", "averaged", "averaged")]
    lines.append(Curve("exact", "exact dynamics", {at: _point(each) for at, each in exactly.items()}))
    drawn = chart("exploitability", lines, _point(BOLD), "always betting")
    return drawn.replace('<svg class="chart"', '<svg xmlns="http://www.w3.org/2000/svg" class="chart"').replace(
        ">", f">{STYLE}", 1
    )


def _point(value: float) -> dict[str, float]:
    return {"mean": value, "low": value, "high": value}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [int(each) for each in sys.argv[2].removeprefix("seeds=").split(",")] if sys.argv[2:] else SEEDS
    seeds, cost = {}, {}
    for seed in wanted:
        cost[seed] = ran(folder / str(seed), [*WORDS, f"seed={seed}"])["cpu_seconds"]
        seeds[seed] = measured(folder, seed, WORDS)
        print(seed, {name: round(each, 4) for name, each in row(seeds[seed]).items()}, flush=True)
    rows = {seed: row(found) for seed, found in seeds.items()}
    iterations = len(next(iter(seeds.values()))) - 1
    exactly = exact(iterations)
    claims = {
        "every seed: last or averaged policy below its start and below 1/3": all(
            min(each["last"], each["averaged"]) < min(each["start"], BOLD) for each in rows.values()
        ),
        "every seed: the averaged policy below its start": all(
            each["averaged"] < each["start"] for each in rows.values()
        ),
    }
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    write_text(ROOT / "docs/results/kuhn.svg", plot(seeds, exactly))
    means = {name: mean(each[name] for each in rows.values()) for name in next(iter(rows.values()))}
    record(
        "kuhn",
        {
            "overrides": WORDS, "seeds": rows, "mean": means, "exact_dynamics": exactly, "always_betting": BOLD,
            "aims": AIMS, "cpu_seconds": cost, "claims": claims,
            "runs_of_revision": json.loads((folder / str(wanted[0]) / "manifest.json").read_text())["git"],
            "by_iteration": {
                seed: {at: each["exploitability"] for at, each in found.items()} for seed, found in seeds.items()
            },
        },
    )  # fmt: skip
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
