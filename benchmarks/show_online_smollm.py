"""SmolLM2-135M-Instruct learns Kuhn poker online, on a CPU: exact exploitability of each snapshot, and the cost.

    make smollm
    python benchmarks/show_online_smollm.py FOLDER   # the run lies in FOLDER; stopped, the same command goes on

The model first imitates a few matches of legal play at random, then trains a LoRA adapter by self-play in rounds of
96 matches (conf/experiment/kuhn_smollm.yaml). Shown by iteration: exploitability (NashConv) of the snapshot and of the
average of all after the start, the legal mass, the guards' figures by round, and over the whole run sampled tokens a
CPU-second of play and the shares of play, hand-over of weights to the sampler, credit and learning in their sum. Exits
with 1 where the hand-over takes more than 5 %.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parley.run.stages import finished
from results import record
from show_kuhn import measured
from show_policies import ran

WORDS = ["experiment=kuhn_smollm", "hardware=cpu", "seed=1", "learner.checkpoint_s=120"]
SHARES = {"play": "play", "handover": "play/handover", "credit": "learn/credit", "learn": "learn"}
MOST = 0.05  # share of the hand-over
GUARDED = ("returns", "entropy", "reply_tokens", "cut", "illegal", "dead", "mismatch", "loss", "kl")


def rounds(run: Path) -> list[dict[str, Any]]:
    """The figures of each round that the guards read, and the loss's own."""
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("round", "matches", *GUARDED) if name in row} for row in rows]


def seconds(iterations: list[dict[str, Any]]) -> dict[str, float]:
    """Wall seconds of play, hand-over, credit and learning over all iterations."""
    rows = [row["seconds"] for row in iterations[1:]]
    return {name: sum(row.get(stage, 0.0) for row in rows) for name, stage in SHARES.items()}


def speed(run: Path, iterations: list[dict[str, Any]]) -> dict[str, float]:
    """Sampled tokens a CPU-second of play, hand-over included."""
    played = [row["policies"]["learner"]["play"] for row in iterations[1:]]
    tokens = sum(each["replies"] * each["reply_tokens"] for each in played)
    done = [finished(folder) for folder in sorted(run.glob("iter_*/play/r*"))]
    return {"sampled_tokens": tokens, "a_cpu_second": tokens / sum(each.cpu_seconds for each in done if each)}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "1"
    ended = ran(run, WORDS)
    found = measured(folder, 1, WORDS)
    spent = seconds(ended["iterations"])
    shares = {name: each / sum(spent.values()) for name, each in spent.items()}
    learner = [row["policies"]["learner"] for row in ended["iterations"]]
    del sys.argv[1:]  # results name no folder of this machine
    told = {
        "overrides": WORDS, "cpu_seconds": ended["cpu_seconds"],
        "exploitability": {at: each["exploitability"] for at, each in found.items()},
        "averaged": {at: each["averaged"] for at, each in found.items() if "averaged" in each},
        "mass": {at: each["mass"] for at, each in found.items()},
        "score_against_start": [each["versus"]["start"]["score"] for each in learner if each["versus"]],
        "invalid_rate": [each["sampled"]["invalid_rate"] for each in learner],
        "alarms": [row.get("alarms", []) for row in ended["iterations"]],
        "rounds": rounds(run), "seconds": spent, "shares": shares, "play": speed(run, ended["iterations"]),
        "hand-over at most": MOST,
    }  # fmt: skip
    for name in ("exploitability", "averaged", "score_against_start", "alarms", "shares", "play"):
        print(f"{name}: {json.dumps(told[name])}", flush=True)
    record("online_smollm", told)
    sys.exit(0 if shares["handover"] <= MOST else 1)


if __name__ == "__main__":
    main()
