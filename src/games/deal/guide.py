"""The texts of Deal or No Deal for a person at the terminal, independent of the models' prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import Result, Scenario
from .contexts import Context, oracle
from .prompts import ERRORS, objective, table, worth

RULES = """\
You and a partner share out {table}. To you they are worth: {worth}. Your partner has other values, which you do not \
see. Your aim: {aim}.
Talk, as long as you like, then propose: each of you says privately what it keeps. The deal holds if the two proposals \
take every item exactly once; otherwise both get nothing. After one has proposed, the other must propose too, and then \
it is over."""
ENDINGS = {
    "mismatch": "no deal, the two proposals do not fit",
    "abort": "no deal, somebody's replies were not legal",
    "cap": "no deal, there were too many turns",
    "context": "no deal, the talk grew too long for the model",
}


class DealGuide:
    """The guide of one game. `weight` is lambda, the weight of the partner's points."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def rules(self, seat: str, seen: Mapping[str, Any]) -> str:
        """The rules, the items and the person's own values."""
        told = {"table": table(seen["counts"]), "worth": worth(seen["values"]), "aim": objective(self.weight)}
        return RULES.format(**told)

    def now(self, seat: str, seen: Mapping[str, Any]) -> str:
        """The legal replies now, with an example."""
        books, hats, balls = (count - count // 2 for count in seen["counts"])
        share = table((books, hats, balls))
        propose = f"[propose] and what you keep, as in: [propose] ({share})"
        if seen["partner_proposed"]:
            return f"Your partner has proposed. Write {propose}"
        message = "[message] and a text, as in: [message] I would like the books"
        return f"Write {message}" + (f"\n   or {propose}" if seen["history"] else "")

    def refused(self, seat: str, seen: Mapping[str, Any]) -> str:
        """Why the last reply was not taken."""
        reason = ERRORS.get(seen["error"], str(seen["error"]))
        return f"That was not taken: {reason.format(table=table(seen['counts']))}. Try again."

    def ending(self, scenario: Scenario, result: Result, seat: str) -> str:
        """How it ended: points of both, and the largest possible sum."""
        best = oracle(Context.of(scenario)).joint_max
        score: Any = result.metrics["score"]
        other = next(role for role in score if role != seat)
        told = ENDINGS.get(result.outcome, "deal")
        return f"{told}: you {score[seat]:g}, partner {score[other]:g}; the best was {best:g}"
