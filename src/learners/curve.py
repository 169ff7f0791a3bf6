"""Figures of learning: of a round from its optimiser steps, and of a session from its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..batches.packing import MicroBatch
from ..batches.plan import Plan, efficiency

Rows = Sequence[Mapping[str, float]]
COUNTS = ("steps", "samples", "utterances", "tokens", "reference_seconds")
OF_A_STEP = ("step", "steps", "lr", "tokens", "tokens_per_second")


def of_round(curve: Rows, epochs: int, plan: Plan, seen: Sequence[MicroBatch]) -> dict[str, Any]:
    """Means over the last epoch's steps, counts, speed, and the `curve` of all steps. `packing` is how many times
    more tokens one row per utterance would cost; `padding` the share of the computed tokens that is padding."""
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
    """The figures of all `rounds` together: counts are added, curves joined, everything else is the rounds' mean."""
    if len(rounds) == 1:
        return dict(rounds[0])
    counts = {name: sum(each[name] for each in rounds) for name in COUNTS}
    curve = [row for each in rounds for row in each["curve"]]
    names = [name for name in (rounds[0] if rounds else {}) if name not in (*COUNTS, "tokens_per_second", "curve")]
    seconds = sum(row["tokens"] / row["tokens_per_second"] for row in curve)
    return {
        **{name: sum(each[name] for each in rounds) / len(rounds) for name in names},
        **counts,
        "tokens_per_second": counts["tokens"] / seconds if seconds else 0.0,
        "curve": curve,
    }
