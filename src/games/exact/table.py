"""Shared parts of the small games: choosing one of the listed replies, and settling a zero-sum result."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from ..base import Illegal, Json, Marks, Reply, Request, Result, View, legal

ROLES = ("first", "second")
METRICS = {
    "score": "payoff of the seat: chips won or lost",
    "first_score": "payoff of the seat that moves first",
    "invalid_rate": "1 if a seat made no legal reply, which ends the match",
}


def other(seat: str) -> str:
    """The opposite seat."""
    return ROLES[1 - ROLES.index(seat)]


def choice(
    view: View, replies: Sequence[str], retries: int, marks: Marks, seen: Mapping[str, Json]
) -> Generator[Request, Reply, str]:
    """Requests one of `replies` from a seat, ignoring white space around it. Raises Out like `legal`."""

    def parse(reply: Reply) -> str | Illegal:
        text = reply.text.strip()
        return text if text in replies else Illegal("unlisted", f"say {' or '.join(replies)} .")

    return legal(view, parse, retries, marks, {**seen, "legal": list(replies)})


def settled(seat: str, lost: float, outcome: str, marks: Marks, blame: tuple[str, ...] = ()) -> Result:
    """The result of a zero-sum match in which `seat` loses `lost` to the other seat."""
    returns = {seat: -lost + 0.0, other(seat): lost}
    word = ("tie", "tie") if lost == 0 else ("loss", "win") if lost > 0 else ("win", "loss")
    words = dict(zip((seat, other(seat)), word, strict=True))
    return Result(returns, outcome, words, blame, measured(returns, blame), marks)


def measured(returns: Mapping[str, float], blame: tuple[str, ...]) -> Mapping[str, float | Mapping[str, float]]:
    """The metrics of a match."""
    return {"score": returns, "first_score": returns[ROLES[0]], "invalid_rate": float(bool(blame))}
