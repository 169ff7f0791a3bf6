"""Safecracker: the spy knows the code of a safe, the agent stands before it and dials.

For each wheel the spy whispers one word, and the agent then dials a digit from 1 to 8. No digit may be whispered, so
the two need words for digits on which they agree. Each right digit is a point for both. A reply that is against the
rules is asked for again once; after that the safe stays shut and nobody gets anything.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from parley.games.base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Json,
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
from parley.games.splits import split as held_out

DIGITS = "12345678"
WORDS = ("sun", "moon", "tree", "fish", "bell", "rose", "king", "ship")  # what the scripts whisper for 1, 2, 3 …
LEGAL = {  # a reply of each seat, as a regular expression and in words
    "spy": ("[a-z]{1,12}", "one word , no digits"),
    "agent": ("[1-8]", "one digit from 1 to 8"),
}
METRICS = {
    "score": "right digits; 0 when the rules were broken",
    "opened_rate": "1 if every digit was right",
    "invalid_rate": "1 if a seat made no legal reply, which ends the match",
}


class Safecracker:
    """The game. `wheels` is the length of the code, `retries` how often an illegal reply is asked for again."""

    name = "safecracker"
    version = 2
    roles = ("spy", "agent")

    def __init__(self, wheels: int = 3, retries: int = 1) -> None:
        self.wheels, self.retries = wheels, retries
        asked = 2 * wheels * (1 + retries)
        self.facts = Facts(min_return=0, max_return=wheels, max_requests=asked, max_retries=retries, metrics=METRICS)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The codes of a split, a tenth each for test and validation. Where a code belongs depends on the code alone,
        so what is held out stays held out."""
        codes = ["-".join(code) for code in product(DIGITS, repeat=self.wheels)]
        mine = held_out({code: code for code in codes}, seed=0)[split]
        return [Scenario(code, {"code": code.split("-")}) for code in mine]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match. These rules need no chance; a game that does takes it from `seed`."""
        return GeneratorMatch(self._turns(scenario.data["code"]))

    def scripts(self) -> Mapping[str, Script]:
        """The sloppy speaker demonstrates; the careful one, which makes no mistake, is a yardstick."""
        return {"sloppy": Speaker(mumble=0.6, slip=0.1), "careful": Speaker(mumble=0.0, slip=0.0)}

    def _turns(self, code: Sequence[str]) -> Turns:
        """A match from its first question to its result."""
        marks: Marks = {}
        try:
            right = yield from self._dial(code, marks)
        except Out as out:  # a seat made no legal reply
            return _result(0, out.outcome, marks, out.blame)
        return _result(right, "opened" if right == self.wheels else "shut", marks)

    def _dial(self, code: Sequence[str], marks: Marks) -> Generator[Request, Reply, int]:
        """Goes over the wheels; returns how many were set right."""
        spy = View("spy", f"you are the spy . the code is {' '.join(code)} . whisper one word , no digits .")
        agent = View("agent", "you are the agent . dial one digit .")
        right = 0
        for wheel, digit in enumerate(code, 1):
            spy.tell(f"wheel {wheel}")
            word = yield from self._ask(spy, {"digit": digit}, marks)
            agent.tell(word)
            dialled = yield from self._ask(agent, {"word": word}, marks)
            right += dialled == digit
        return right

    def _ask(self, view: View, seen: Mapping[str, Json], marks: Marks) -> Generator[Request, Reply, str]:
        """A legal reply of the seat: `legal` asks until there is one, and marks each reply that is not."""
        return legal(view, lambda reply: _parse(view.seat, reply), self.retries, marks, observation=seen)


def _parse(seat: str, reply: Reply) -> str | Illegal:
    """What the reply says, or why it is against the rules."""
    pattern, told = LEGAL[seat]
    text = reply.text.strip()
    return text if reply.finish == "stop" and re.fullmatch(pattern, text) else Illegal("illegal", told)


def _result(right: int, outcome: str, marks: Marks, blame: tuple[str, ...] = ()) -> Result:
    metrics = {"score": right, "opened_rate": int(outcome == "opened"), "invalid_rate": int(bool(blame))}
    return Result({"spy": right, "agent": right}, outcome, blame=blame, metrics=metrics, marks=marks)


@dataclass(frozen=True)
class Speaker:
    """A scripted player for both seats.

    mumble  chance that it whispers an even digit with the word for the odd digit below, so that nobody can tell them
            apart
    slip    chance that it says anything that is legal
    """

    mumble: float
    slip: float

    def __call__(self, request: Request, rng: Random, persona: Random) -> str:
        seen = request.observation or {}
        options = WORDS if request.seat == "spy" else DIGITS
        if rng.random() < self.slip or seen.get("word", WORDS[0]) not in WORDS:
            return rng.choice(options)
        if request.seat == "agent":
            return DIGITS[WORDS.index(seen["word"])]
        place = DIGITS.index(seen["digit"])
        return WORDS[place - 1 if place % 2 and rng.random() < self.mumble else place]
