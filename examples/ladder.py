"""Ladder: a game for one. A number is hidden, the seeker guesses it and hears "higher" or "lower".

The seeker gets a point for each guess that it did not need. There are so few numbers that none is held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from parley.games import (
    Facts,
    GeneratorMatch,
    Illegal,
    Marks,
    Match,
    Out,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    legal,
)

METRICS = {
    "score": "guesses that were left when the number was found; 0 when it was not",
    "found_rate": "1 if the number was found",
    "invalid_rate": "1 if the seeker made no legal guess, which ends the match",
}


class Ladder:
    """The game: a number from 1 to `top` and `tries` guesses. An illegal guess is asked for again `retries` times."""

    name = "ladder"
    version = 1
    roles = ("seeker",)

    def __init__(self, top: int = 31, tries: int = 6, retries: int = 1) -> None:
        self.top, self.tries, self.retries = top, tries, retries
        self.facts = Facts(
            min_return=0,
            max_return=tries,
            max_requests=tries * (1 + retries),
            max_retries=retries,
            metrics=METRICS,
            held_out=False,
        )

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """Every number, in all splits."""
        return [Scenario(str(number), {"number": number}) for number in range(1, self.top + 1)]

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario.data["number"]))

    def scripts(self) -> Mapping[str, Script]:
        """`halving` halves what is left, `wild` guesses anything that is left."""
        return {"halving": halving, "wild": wild}

    def _turns(self, number: int) -> Turns:
        view, marks = View("seeker", f"find the number from 1 to {self.top} ."), Marks()
        low, high = 1, self.top
        for left in reversed(range(self.tries)):
            view.tell(f"{left + 1} guesses left")
            try:
                guess = yield from legal(view, self._parse, self.retries, marks, observation={"low": low, "high": high})
            except Out as out:
                return _result(0, out.outcome, marks, out.blame)
            if guess == number:
                return _result(left + 1, "found", marks)
            view.tell("higher" if guess < number else "lower")
            low, high = (max(low, guess + 1), high) if guess < number else (low, min(high, guess - 1))
        return _result(0, "missed", marks)

    def _parse(self, reply: Reply) -> int | Illegal:
        text = reply.text.strip()
        if reply.finish == "stop" and text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= self.top:
            return int(text)
        return Illegal("illegal", f"one number from 1 to {self.top}")


def _result(left: int, outcome: str, marks: Marks, blame: tuple[str, ...] = ()) -> Result:
    metrics = {"score": left, "found_rate": int(outcome == "found"), "invalid_rate": int(bool(blame))}
    return Result({"seeker": left}, outcome, blame=blame, metrics=metrics, marks=marks)


def halving(request: Request, rng: Random, persona: Random) -> str:
    seen = request.observation or {}
    return str((seen["low"] + seen["high"]) // 2)


def wild(request: Request, rng: Random, persona: Random) -> str:
    seen = request.observation or {}
    return str(rng.randint(seen["low"], seen["high"]))
