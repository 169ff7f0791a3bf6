"""Two policies: attacker and defender of Taboo, each an adapter on one base, learn from one round of play.

    python benchmarks/show_policies.py FOLDER [override …]   # runs lie in FOLDER, and go on from there

Shown are: each policy's win rate against the start's other side, 500 matches and more, with intervals; the same run
killed in play and in learning, and resumed, with the same summary; one policy under another name with the weights of
the default. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parley.run.contents import all_snapshots
from results import record
from show_kill import figures, finish, kill, learning, playing, start

SMALL = [
    "experiment=spag_tiny", "imitate.matches=1000", "objective.credit.mix=1000", "play.scenarios=60", "play.group=6",
    "eval.opponents=[]", "eval.group=1", "eval.validation_group=2", "seed=1", "learner.checkpoint_s=1",
]  # fmt: skip
BOTH = [
    "+policies.attacker={}", "+policies.defender={}", "+players.attacker=attacker", "+players.defender=defender",
    "adapter=lora", "metric=attacker.versus.imitation.win_rate", "iterations=2", "eval.final=8",
]  # fmt: skip
MATCHES = 500  # of each policy against the start, at least


def begin(run: Path, words: list[str]) -> list[str]:
    """Imitates once; returns what begins a run at the snapshot that comes of it."""
    if not (run / "iter_000/start/stage.json").exists():
        finish(start(run, ["task=imitate", *words]), run)
    return [*words, "model=hf", f"model.path={run}/iter_000/start/snapshot", "imitate.first=false"]


def ran(run: Path, words: list[str]) -> dict[str, Any]:
    """The summary of a run, which goes on where it was cut off."""
    if not (run / "summary.json").exists():
        finish(start(run, words), run)
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def against_start(summary: dict[str, Any]) -> dict[str, Any]:
    """Each policy's win rate against the start's other side: at the start, kept, and the paired gain."""
    first, kept = (summary["iterations"][at]["policies"] for at in (0, summary["best"]))
    return {
        name: {
            "start": first[name]["versus"]["imitation"]["win_rate"],
            "kept": kept[name]["versus"]["imitation"]["win_rate"],
            "gain": summary["gains"][name]["win_rate"],
        }
        for name in kept
    }


def unlike(one: Any, other: Any, key: str = "") -> list[str]:
    """The keys of two summaries under which they differ; entropies by more than the sixth digit, for recorded log-probs
    depend on what else was in the batch there (ids do not)."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = one.keys() | other.keys()
        return [found for name in names for found in unlike(one.get(name), other.get(name), f"{key}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for at, pair in pairs for found in unlike(*pair, f"{key}.{at}")]
    if key.endswith(".entropy") and abs(one - other) < 1e-6:
        return []
    return [] if one == other else [key]


def weights(run: Path, policy: str) -> list[str]:
    """The digests of a policy's snapshots."""
    return [each[policy].version.rpartition("-")[2] for each in all_snapshots(run).values()]


def main() -> None:
    folder, more = Path(sys.argv[1]).resolve(), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    begun = begin(folder / "start", SMALL + more)
    both = begun + BOTH
    whole = ran(folder / "whole", both)
    cut, hits = folder / "cut", []
    if not (cut / "summary.json").exists():
        for when in (playing("iter_001/play"), learning(1), learning(2)):
            hits.append(kill(start(cut, both), cut, when, 0.3))
    resumed = ran(cut, both)
    for name in ("learner", "bob"):
        ran(folder / name, [*begun, "iterations=1", f"+policies.{name}={{}}"])
    found = against_start(whole)
    matches = {name: each["kept"]["n"] for name, each in found.items()}
    claims = {
        f"each against the start's other side, {MATCHES} matches at least": min(matches.values()) >= MATCHES,
        "killed and resumed to the same summary": not unlike(figures(resumed), figures(whole)),
        "another name gives the same weights": weights(folder / "learner", "learner") == weights(folder / "bob", "bob"),
    }
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    record("policies", {"overrides": SMALL + BOTH + more, "killed": hits, "claims": claims, "versus_start": found})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
