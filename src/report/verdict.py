"""The verdict on a run in one sentence: the kept snapshot's gain over the start, and whether it is beyond chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .rows import Figure, Figures, Measured, Summary
from .run import figure


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` is better, worse or unclear; `text` the sentence."""

    word: Literal["better", "worse", "unclear"]
    text: str


def verdicts(data: Summary) -> Iterator[Verdict]:
    """The verdict on each policy, in the run's metric, at 95 % confidence.

    A run judged against its start uses that paired gain, any other the paired gain in greedy self-play. If the start
    itself is kept, its figure (sampled, or against itself) is compared with the last iteration's.
    """
    for policy in data.policies:
        verdict = _start_kept(data, policy) if data.best == data.iterations[0].iteration else _gained(data, policy)
        yield Verdict(verdict.word, f"{policy}: {verdict.text}" if len(data.policies) > 1 else verdict.text)


def _gained(data: Summary, policy: str) -> Verdict:
    gain, how = data.gains.get(policy, {}).get(data.metric), f"against the {data.start}"
    if gain is None:
        gain, how = data.improvement_greedy.get(policy), "in greedy self-play"
    if not gain or gain["low"] is None or gain["high"] is None:
        return Verdict("unclear", f"Iteration {data.best} is kept; its gain in {data.metric} was not measured.")
    told = f"{data.metric} {how}, iteration {data.best} less the start, over {gain['n']} held-out scenarios"
    if gain["low"] > 0:
        return Verdict("better", f"It learned: {_signed(gain)} in {told}.")
    if gain["high"] < 0:
        return Verdict("worse", f"It got worse: {_signed(gain)} in {told}.")
    return Verdict("unclear", f"No gain beyond chance: {_signed(gain)} in {told}.")


def _start_kept(data: Summary, policy: str) -> Verdict:
    ends = (data.iterations[0].policies[policy], data.iterations[-1].policies[policy])
    first, last = (_judged(data, each).get(data.metric) for each in ends)
    how = f"against the {data.start}" if data.gains else "sampled"
    if len(data.iterations) == 1 or not first or not last:
        return Verdict("unclear", "Nothing was learned in this run: it has only the start.")
    told = f"{data.metric} {how}, {figure(first)} at the start and {figure(last)} at the end; the start is kept"
    apart = last["high"] is not None and first["low"] is not None and last["high"] < first["low"]
    if apart:
        return Verdict("worse", f"It got worse: {told}.")
    return Verdict("unclear", f"No iteration was better on validation: {told}.")


def _judged(data: Summary, measured: Measured) -> Figures:
    """The figures that judge a run. In a zero-sum game self-play's mean is always 0, so the start is the opponent."""
    return measured.versus.get(data.start, {}) if data.gains else measured.sampled


def _signed(gain: Figure) -> str:
    return ("+" if gain["mean"] > 0 else "") + figure(gain)
