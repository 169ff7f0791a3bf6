"""Payoffs and metrics of a finished match.

Points are the sum of a player's values over its share, 0 without a deal; a payoff is own points plus lambda times the
other's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..base import Marks, Result
from .contexts import Context, Points, Triple, oracle, points, rest
from .grammar import REASONS

ROLES = ("first", "second")

METRICS: Mapping[str, str] = {
    "score": "own points of the seat, 0 to 10; 0 without a deal",
    "payoff": "what the seat is after: own points plus lambda times the other seat's",
    "joint_score": "both seats' points together; 0 without a deal",
    "agreement_rate": "1 if the match ended in a deal",
    "pareto_rate": "1 if it ended in a deal that no allocation beats (at least as good in both seats' own points, "
    "better in one)",
    "pareto_agreed": "the same among deals only: absent without a deal",
    "optimal_rate": "1 if it ended in a deal at the largest sum of payoffs that the context allows (in comp: any deal)",
    "ceiling": "the most that the payoffs of both seats can sum to in the context, halved: what a seat's payoff is to "
    "be measured by",
    "ceiling_share": "joint_score over the largest joint score that the context allows",
    "nash_advantage": "the seat's payoff less its payoff at the context's Nash bargaining solution (mean where "
    "several tie)",
    "first_mover_advantage": "points of the seat that opened less the other's",
    "mismatch_rate": "1 if both proposed and the proposals did not fit",
    "abort_rate": "1 if a seat's replies were illegal until its retries were used up",
    "cap_rate": "1 if the cap on actions ended it",
    "invalid_rate": "1 if it ended because a seat made no legal move: aborts, and views that outgrew the model's "
    "context",
    "actions": "accepted messages and proposals of both seats",
    "retries": "illegal replies of the seat",
    **{f"retry_{reason}": f"illegal replies of both seats for the reason {reason!r}" for reason in REASONS},
}


@dataclass(slots=True)
class Tally:
    """Counts during a match: accepted actions, proposals, illegal replies of each seat, and their marks."""

    actions: int = 0
    shares: dict[str, Triple] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)
    marks: Marks = field(default_factory=dict)


def result(context: Context, weight: float, tally: Tally, outcome: str, blame: tuple[str, ...] = ()) -> Result:
    """The result of a match that ended with `outcome`; `weight` is lambda."""
    won = settle(context, tally.shares) if outcome == "settled" else None
    if outcome == "settled":
        outcome = "mismatch" if won is None else "agreement"
    first, second = won or (0, 0)
    payoff = dict(zip(ROLES, (first + weight * second, second + weight * first), strict=True))
    metrics: dict[str, float | Mapping[str, float]] = {
        "score": dict(zip(ROLES, (first, second), strict=True)),
        "payoff": payoff,
        "joint_score": first + second,
        **_quality(context, weight, won, payoff),
        "first_mover_advantage": first - second,
        "mismatch_rate": int(outcome == "mismatch"),
        "abort_rate": int(outcome == "abort"),
        "cap_rate": int(outcome == "cap"),
        "invalid_rate": int(bool(blame)),
        "actions": tally.actions,
        **_retries(tally),
    }
    return Result(dict(payoff), outcome, blame=blame, metrics=metrics, marks=tally.marks)


def settle(context: Context, shares: Mapping[str, Triple]) -> Points | None:
    """Both players' points if the two proposals take every item exactly once, else None."""
    first, second = (shares[role] for role in ROLES)
    if rest(context.counts, first) != second:
        return None
    return points(context.values[0], first), points(context.values[1], second)


def _quality(
    context: Context, weight: float, won: Points | None, payoff: Mapping[str, float]
) -> dict[str, float | Mapping[str, float]]:
    best = oracle(context)
    pareto = int(won in best.frontier)
    total = sum(won or (0, 0))
    a, b = best.nash
    fair = dict(zip(ROLES, (a + weight * b, b + weight * a), strict=True))
    return {
        "agreement_rate": int(won is not None),
        "pareto_rate": pareto,
        **({} if won is None else {"pareto_agreed": pareto}),
        "optimal_rate": int(won is not None and (total == best.joint_max or weight == -1)),
        "ceiling": (1 + weight) / 2 * best.joint_max,
        "ceiling_share": total / best.joint_max,
        "nash_advantage": {role: payoff[role] - fair[role] for role in ROLES},
    }


def _retries(tally: Tally) -> dict[str, float | Mapping[str, float]]:
    reasons = Counter(mark["retry"] for mark in tally.marks.values())
    return {
        "retries": {role: tally.retries[role] for role in ROLES},
        **{f"retry_{reason}": reasons[reason] for reason in REASONS},
    }
