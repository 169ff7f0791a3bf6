"""`rounds.jsonl`: a line for each policy and round of self-play, from the outputs of the stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.run import ROUNDS
from ..system.files import write_text
from .lessons import Round
from .run import Run


def rows(run: Run, iteration: int, rounds: Sequence[Round], policy: str) -> list[dict[str, Any]]:
    """The figures of each round of a finished iteration: matches, the policy's language, credit and learner. `entropy`
    is in nats per token, `dead` the share of logs without an advantage."""
    learned = run.outputs(f"iter_{iteration:03d}/learn")[policy].get("rounds", [])
    found = []
    for each, after in zip(rounds, learned, strict=False):
        told = run.told(each.stage)
        words = {name: value for name, value in told["policies"][policy].items() if name != "figures"}
        place = {"round": each.number, "iteration": iteration, "policy": policy, "matches": told["matches"]}
        taught = {name: value for name, value in after.items() if name not in place}  # a loss may have a term `policy`
        found.append({**place, "returns": told.get("returns", {}), **words, **_spread(words), **taught, **_dead(after)})
    return found


def _spread(words: Mapping[str, float]) -> dict[str, float]:
    return {"entropy": words["entropy"] / words["reply_tokens"]} if words.get("reply_tokens") else {}


def _dead(after: Mapping[str, float]) -> dict[str, float]:
    return {"dead": 1 - after["kept"] / after["logs"] if after.get("logs") else 1.0}


def write(run: Run, found: Sequence[Mapping[str, Any]]) -> None:
    """Rewrites all rows, also in a resumed run."""
    write_text(run.out / ROUNDS, "".join(json.dumps(row) + "\n" for row in found))
