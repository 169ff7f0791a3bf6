"""Training metrics: of a round from its optimiser steps, and of several rounds pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..batches.packing import MicroBatch
from ..batches.plan import Plan, efficiency

Rows = Sequence[Mapping[str, float]]
COUNTS = (
    "matches", "replies", "forks", "logs", "kept", "utterances", "dead_rounds", "steps", "samples", "tokens",
    "reference_seconds",
)  # fmt: skip
OF_A_STEP = ("step", "steps", "lr", "tokens", "tokens_per_second")


def of_round(curve: Rows, epochs: int, plan: Plan, seen: Sequence[MicroBatch]) -> dict[str, Any]:
    """Means over the last epoch's steps, counts, speed, and the `curve` of all steps. `packing` is the factor by which
    one row per utterance would cost more tokens; `padding` is the share of computed tokens that is padding."""
    last = curve[-max(len(curve) // epochs, 1) :]
    packed = efficiency(seen, plan.samples)
    tokens = sum(row["tokens"] for row in curve)
    return {
        **{name: sum(row[name] for row in last) / len(last) for name in last[0] if name not in OF_A_STEP},
        "steps": len(curve),
        "samples": sum(bool(each.utterances) for each in plan.samples),
        "utterances": sum(len(each.utterances) for each in plan.samples),
        "tokens": tokens,
        "tokens_per_second": tokens / sum(row["tokens"] / row["tokens_per_second"] for row in curve),
        "packing": packed.tokens_per_utterance / packed.tokens_packed,
        "padding": packed.padding,
        "curve": list(curve),
    }


def of_session(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all `rounds` together, their curves joined."""
    curve = [row for each in rounds for row in each["curve"]]
    numbers = [{name: value for name, value in each.items() if name != "curve"} for each in rounds]
    return {**pooled(numbers, "steps"), "curve": curve}


def pooled(rounds: Sequence[Mapping[str, float]], weight: str) -> dict[str, float]:
    """The figures of several rounds as one: counts are added, speeds are recomputed from total time, and the others are
    means weighted by the count `weight`. A single round's figures are returned unchanged."""
    if len(rounds) == 1:
        return dict(rounds[0])
    names = dict.fromkeys(name for each in rounds for name in each)
    return {name: _pooled(name, [each for each in rounds if name in each], weight) for name in names}


def _pooled(name: str, rounds: Sequence[Mapping[str, float]], weight: str) -> float:
    values = [each[name] for each in rounds]
    if name in COUNTS:
        return sum(values)
    if name == "tokens_per_second":
        return sum(each["tokens"] for each in rounds) / sum(each["tokens"] / each[name] for each in rounds)
    weights = [each.get(weight, 0.0) for each in rounds]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / (sum(weights) or 1.0)
