"""Single requests of another game, to estimate a player's reply distribution by sampling.

For players whose probabilities cannot be computed: served models, models with thoughts, stateful scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .base import Facts, GeneratorMatch, Match, Request, Result, Scenario, Script, Turns

METRICS = {"legal_rate": "1 if the reply is one of those that the request lists"}


class Questions:
    """A game of one seat with a scenario for each of `requests`, by number; a match is one reply.

    `scripts` are the other game's.
    """

    name = "questions"
    version: int | str = 1

    def __init__(self, requests: Sequence[Request], scripts: Mapping[str, Script]) -> None:
        self.requests, self._scripts = tuple(map(_alone, requests)), scripts
        self.roles: tuple[str, ...] = (requests[0].seat,)
        self.facts = Facts(0, 0, 1, 0, history=True, metrics=METRICS, held_out=False)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The requests, for any split."""
        return [Scenario(f"{number:06d}", {"request": number}) for number in range(len(self.requests))]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """One reply to one request."""
        return GeneratorMatch(self._turns(self.requests[scenario.data["request"]]))

    def scripts(self) -> Mapping[str, Script]:
        """The scripts of the other game."""
        return self._scripts

    def _turns(self, request: Request) -> Turns:
        reply = yield request
        legal = float(reply.text.strip() in (request.observation or {})["legal"])
        if reply.finish == "context":
            return Result({request.seat: 0.0}, "context", blame=(request.seat,), metrics={"legal_rate": 0.0})
        return Result({request.seat: 0.0}, "asked", metrics={"legal_rate": legal})


def _alone(request: Request) -> Request:
    """A request as the first of its match: the seat's earlier replies become part of the given chat."""
    return replace(request, id="asked", messages=tuple(replace(message, request=None) for message in request.messages))
