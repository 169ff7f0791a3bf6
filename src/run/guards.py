"""Guards: detect a collapse of self-play from a run's figures. Pure functions of rows; the loop acts on them.

The return in self-play does not show a collapse: in a zero-sum game it is always 0, and degenerate replies that both
seats accept stay legal. Figures of rounds are free; the score against the start needs an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance
from typing import Any, Literal, TypeAlias

from ..report.estimates import t_quantile
from ..system.bounds import Amount, Count, Share

Rounds: TypeAlias = Sequence[Mapping[str, Any]]  # the rows of one iteration's rounds (see `parley.run.rounds`)
Figure: TypeAlias = Mapping[str, Any]  # mean, low, high at 95 %
QUARTER = 4  # figures are means over the last quarter of an iteration's rounds
NORMAL = 1.96  # standard errors from a mean to the end of its 95 % interval


@dataclass(frozen=True, slots=True)
class Guards:
    """Thresholds (null turns one off), and the action after an iteration that exceeds one.

    action    warn: only report. stop: end the run. rollback: start the next iteration from the best snapshot so far
              that raised none, with a new optimiser at half the learning rate
    anchor    the score against the start is so many standard errors below its best, `readings` iterations in a row
    seats     in a zero-sum game the first seat's mean payoff differs by so many standard errors from the first
              iteration, more by Student's t if there are few rounds; each iteration needs two rounds or more
    entropy   nats per token of play, with bounds relative to the first iteration's first round
    length    tokens per reply, by at most this factor more or fewer than in that round
    cut       share of replies cut off at max_tokens
    illegal   share of illegal replies, above that of the first iteration's first round
    mismatch  (l - b)^2 / 2 between trainer and sampler
    dead      share of logs without an advantage (all logs of a dead round)
    """

    action: Literal["warn", "stop", "rollback"] = "warn"
    anchor: Amount | None = 2.0
    readings: Count = 2
    seats: Amount | None = 3.0
    entropy: Sequence[float] | None = (0.25, 2.0)
    length: Amount | None = 3.0
    cut: Share | None = 0.05
    illegal: Share | None = 0.05
    mismatch: Amount | None = 1e-3
    dead: Share | None = 0.95

    def alarms(self, iterations: Sequence[Rounds], scores: Sequence[Figure | None], zero_sum: bool) -> list[str]:
        """Alarms after the last of `iterations`, as texts; [] if there are none. `scores` are those against the start,
        of the iterations that led to the last one, beginning with the start's own."""
        found: list[str] = list(self._anchored(scores))
        if iterations and iterations[-1]:
            first, now = iterations[0], iterations[-1]
            found += self._seated(first, now) if zero_sum else []
            found += self._changed(first, now)
            found += self._absolute(now)
        return found

    def _anchored(self, scores: Sequence[Figure | None]) -> Iterator[str]:
        known = [each for each in scores if each is not None]
        if self.anchor is None or len(known) <= self.readings:
            return
        best = max(each["mean"] for each in known[: -self.readings])
        late = known[-self.readings :]
        if all(each["mean"] < best - self.anchor * _error(each) for each in late):
            yield f"the score against the start is {late[-1]['mean']:.4g}, and was {best:.4g}"

    def _seated(self, first: Rounds, now: Rounds) -> Iterator[str]:
        if self.seats is None or len(now) < 2 or len(first) < 2:
            return
        before, after = (
            [next(iter(row["returns"].values())) for row in rows if row["returns"]] for rows in (first, now)
        )
        if min(len(before), len(after)) < 2:
            return
        error = sqrt(variance(before) / len(before) + variance(after) / len(after))
        error *= t_quantile(len(before) + len(after) - 2) / NORMAL  # two rounds alone say little of the spread
        if abs(mean(after) - mean(before)) > self.seats * error:
            yield f"the first seat earns {mean(after):.4g}, and earned {mean(before):.4g}"

    def _changed(self, first: Rounds, now: Rounds) -> Iterator[str]:
        """Comparisons with the first round."""
        pairs: list[tuple[str, str, Callable[[float], tuple[float, float]] | None]] = [
            ("entropy", "nats a token", _times(self.entropy)),
            ("reply_tokens", "tokens a reply", _times((1 / self.length, self.length) if self.length else None)),
            ("illegal", "of the replies are illegal", _above(self.illegal)),
        ]
        for name, words, bounds in pairs:
            before, after = _latest(first[:1], name), _latest(now, name)
            if bounds is None or before is None or after is None:
                continue
            low, high = bounds(before)
            if not low <= after <= high:
                yield f"{after:.4g} {words}, expected {low:.4g} to {high:.4g}"

    def _absolute(self, now: Rounds) -> Iterator[str]:
        for name, most, words in (
            ("cut", self.cut, "of the replies are cut off"),
            ("mismatch", self.mismatch, "between trainer and sampler"),
            ("dead", self.dead, "of the logs have no advantage"),
        ):
            value = _latest(now, name)
            if most is not None and value is not None and value > most:
                yield f"{value:.4g} {words}, expected at most {most:.4g}"


def _latest(rows: Rounds, name: str) -> float | None:
    """The mean of a figure over the last quarter of the rounds; None if none of them has it."""
    late = rows[-max(len(rows) // QUARTER, 1) :]
    values = [float(row[name]) for row in late if name in row]
    return mean(values) if values else None


def _error(figure: Figure) -> float:
    low, high = figure.get("low"), figure.get("high")
    return (high - low) / (2 * NORMAL) if low is not None and high is not None else 0.0


def _times(share: Sequence[float] | None) -> Callable[[float], tuple[float, float]] | None:
    return None if share is None else lambda before: (share[0] * before, share[1] * before)


def _above(more: float | None) -> Callable[[float], tuple[float, float]] | None:
    return None if more is None else lambda before: (0.0, before + more)
