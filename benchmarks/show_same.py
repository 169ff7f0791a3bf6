"""Nothing moved: four experiments, shortened alike, with this checkout and with an older one; every figure is compared.

    python benchmarks/show_same.py BASE_CHECKOUT           # a checkout of the older revision, with its own .venv
    python benchmarks/show_same.py BASE_CHECKOUT FOLDER    # runs lie in FOLDER, and go on from there

One seed, one thread. Figures are compared to the digit, times are not; a figure that only the new layout has is named.
`spag_tiny` is run a third time: the older revision imitated the last reply of a seat that broke a rule, the newer one
does not, and with the older rule put back its figures must be the older ones. Exits with 1 where a figure differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results import record

EVALUATED = [
    "eval.scenarios=16", "eval.greedy=16", "eval.validation=12", "eval.transcripts=1", "seed=1", "iterations=2",
]  # fmt: skip
DEAL = [
    *EVALUATED, "play.scenarios=24", "imitate.matches=800", "imitate.validation=20", "imitate.learner.epochs=1",
    "objective.credit.keep=all",
]  # fmt: skip
RUNS = {
    "deal_tiny": DEAL,
    "deal_tiny_self": DEAL,
    "spag_tiny": [
        *EVALUATED, "play.scenarios=40", "play.group=4", "objective.credit.mix=400", "eval.group=1", "eval.final=2",
        "eval.validation_group=2", "imitate.matches=600", "imitate.validation=20",
    ],
    "spin_tiny": [*EVALUATED, "play.scenarios=120"],
}  # fmt: skip
TIMES = {"seconds", "cpu_seconds", "tokens_per_second", "reference_seconds"}
NEW = {  # what the older revision did not tell
    "round", "policy", "dead_rounds", "forks", "fork_share", "thought_share",
}  # fmt: skip


OLD_RULE = '''
from dataclasses import replace
from parley.__main__ import main
from parley.run import demonstrations

new = demonstrations.demonstrate


def old(game, episode, partner_weight):
    """The demonstrations of a match, in which a seat that broke a rule is imitated to its end."""
    last = {turn.seat: turn.request for turn in episode.turns}
    broken = {last[seat] for seat in episode.result.blame}
    for demo in new(game, episode, partner_weight):
        said = zip(demo.messages, demo.weights, strict=True)
        yield replace(demo, weights=tuple(1.0 if each.request in broken else weight for each, weight in said))


demonstrations.demonstrate = old
main()
'''


def run(checkout: Path, experiment: str, folder: Path, code: str = "") -> dict[str, Any]:
    """The summary of a run, which goes on where it was cut off; `code` starts it in place of the command."""
    place = f"resume={folder}" if (folder / "config.yaml").exists() else f"hydra.run.dir={folder}"
    if not (folder / "summary.json").exists():
        words = [f"experiment={experiment}", *RUNS[experiment], place]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [checkout / ".venv/bin/python", "-c", code] if code else [checkout / ".venv/bin/parley"]
        subprocess.run([*command, *words], cwd=folder.parent, env=environment, check=True)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure with its dotted key, times left out; without the only policy's name, as in the older layout."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name not in TIMES:
                inner = key if name in ("policies", "learner") else f"{key}.{name}"
                yield from flat(part, inner)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from flat(part, f"{key}.{number}")
    elif value is not None:
        yield key, value


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """How many figures are equal, which differ or are gone, and which are new."""
    old, new = dict(flat(before)), dict(flat(after))
    differ = {key: [value, new.get(key)] for key, value in old.items() if new.get(key) != value}
    added = sorted({key.rpartition(".")[2] for key in new.keys() - old.keys()})
    return {"equal": len(old) - len(differ), "differ": differ, "added": added}


def main() -> None:
    base, here = Path(sys.argv[1]).resolve(), Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        before, after = (
            {name: run(checkout, name, folder / f"{name}_{which}") for name in RUNS}
            for which, checkout in (("before", base), ("after", here))
        )
        ruled = run(here, "spag_tiny", folder / "spag_tiny_ruled", OLD_RULE)
    found = {name: compared(before[name], after[name]) for name in RUNS}
    changed = found.pop("spag_tiny")["differ"]
    found["spag_tiny, rule breaks imitated as before"] = compared(before["spag_tiny"], ruled)
    for name, each in found.items():
        print(f"{name}: {each['equal']} figures equal, {len(each['differ'])} differ {each['differ'] or ''}")
    claims = {
        "every figure is equal to the digit": not any(each["differ"] for each in found.values()),
        "nothing else was added": all(set(each["added"]) <= NEW for each in found.values()),
    }
    command = ["git", "-C", base, "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    print(f"spag_tiny as it is: {len(changed)} figures differ, as rule breaks are not imitated any more")
    sys.argv[1:] = ["BASE"]  # results name no folder of this machine
    told = {"before": revision, "overrides": RUNS, "claims": claims, "runs": found}
    record("same", {**told, "figures of spag_tiny that the rule moved": len(changed)})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
