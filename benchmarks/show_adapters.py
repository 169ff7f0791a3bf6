"""Low-rank adapters and offline policy optimisation on the default experiment: is the last snapshot better than its own
start?

    python benchmarks/show_adapters.py                                     # three runs of seed 0, one after the other
    python benchmarks/show_adapters.py lora=RUN qlora=RUN offline_po=RUN   # reads runs that were made before

Imitation trains all weights, the iterations only the adapter; in `qlora` the start is the 4-bit base itself. Every run
is held against its own start, match by match of the same held-out scenarios. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parley.data.store import EpisodeStore
from parley.report.estimates import paired
from results import record

RUNS = {"lora": ["adapter=lora"], "qlora": ["adapter=qlora"], "offline_po": ["objective=offline_po"]}
METRIC = "joint_score"
SHOWN = (METRIC, "score", "agreement_rate", "pareto_rate", "invalid_rate")


def play(name: str, run: Path) -> None:
    subprocess.run([sys.executable, "-m", "parley", *RUNS[name], "seed=0", f"hydra.run.dir={run}"], check=True)


def matches(run: Path, iteration: int, part: str) -> EpisodeStore:
    return EpisodeStore(run / f"iter_{iteration:03d}" / "eval" / part, shard=None)


def measure(name: str, run: Path) -> dict[str, Any]:
    """The start, the last snapshot, and the paired differences between them."""
    summary, manifest = (json.loads((run / f"{file}.json").read_text()) for file in ("summary", "manifest"))
    words = manifest["command"].split()[1:]
    if missing := sorted(set(RUNS[name]) - set(words)):
        sys.exit(f"{run} is no run of {name}: its command lacks {missing[0]}")
    rows = summary["iterations"]
    end = rows[-1]["iteration"]
    gain = {
        part: paired(matches(run, 0, part).read(), matches(run, end, part).read(), METRIC).to_json()
        for part in ("sampled", "greedy")
    }
    return {
        "overrides": [word for word in words if "/" not in word],  # results name no folder of this machine
        "imitation": "in the run" if summary["demonstrators"] else "given, as model.path",
        "revision": manifest["git"]["revision"],
        "seed": summary["seed"],
        "seconds": summary["seconds"],
        "cpu_seconds": summary["cpu_seconds"],
        "gain": gain,
        **{
            name: {part: {key: rows[at][part][key] for key in SHOWN} for part in gain}
            for name, at in (("start", 0), ("last", -1))
        },
        "sampled": [row["sampled"][METRIC]["mean"] for row in rows],
    }


def told(name: str, found: dict[str, Any]) -> str:
    parts = [
        f"{part} {found['start'][part][METRIC]['mean']:.2f} -> {found['last'][part][METRIC]['mean']:.2f}, "
        f"paired {gain['mean']:+.2f} [{gain['low']:.2f}, {gain['high']:.2f}] over {gain['n']} scenarios"
        for part, gain in found["gain"].items()
    ]
    return f"{name}: {'; '.join(parts)}"


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(given.get(name, f"{scratch}/{name}")) for name in RUNS}
        for name, run in folders.items():
            if name not in given:
                play(name, run)
        found = {name: measure(name, run) for name, run in folders.items()}
    for name in RUNS:
        print(told(name, found[name]))
    claims = {
        f"{name}: the last {part} joint score is above its own start, the paired interval above 0": each["gain"][part][
            "low"
        ]
        > 0
        for name, each in found.items()
        for part in ("sampled", "greedy")
    }
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    record("adapters", {"experiment": "deal_tiny", "claims": claims, "runs": found})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
