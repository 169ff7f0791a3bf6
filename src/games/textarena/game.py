"""The environments of TextArena 0.7 behind the game contract.

A scenario is a seed in a range of its split. The environment deals from it; what chance brings later comes from the
match's own seed (`deal="scenario"`), so that all matches of a group begin alike. Where an environment draws nothing,
all its scenarios are the same match, and what is held out says nothing.

A seat is told message by message what is new since its last turn, without the echo of its own reply. An invalid move is
asked for again as often as the environment allows; after that it puts the seat out, or ends the match, and the seat is
to blame. Outcomes: decided or tie (of a game for one win or loss), invalid, cut (after `max_requests`), context, crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from ...system.files import InputError
from ...system.naming import nearest
from ..base import Facts, GeneratorMatch, Scenario, Script
from ..splits import SPLITS
from .environments import Environment, known
from .match import METRICS, Rules, Table
from .port import Raw, environments, library
from .scripts import random

FAR = 10**7  # seeds of two splits lie so far apart


class TextArena:
    """The game.

    env           an id of TextArena, as TicTacToe-v0
    players       seats of a match; None: the fewest that the environment takes
    options       arguments of the environment
    scenarios     of the train split; held_out: of each of the two others
    deal          whether what is dealt at the start comes from the scenario, or all chance from the match
    boards        all, or last: of several boards that a seat is told at once only the newest
    brackets      puts a reply that has no brackets into brackets
    max_requests  after which a match is cut off; max_retries: retries in a row after which it is given up
    cpu_s         CPU-seconds that one call into the environment may take
    invalid       what an invalid move is worth to its seat; invalid_others: to the others where it ends the match;
                  None: what TextArena says
    returns       least and greatest reward, where TextArena's environment is not known here
    success       the reward from which on a game for one is won

    InputError for an environment that is not there or cannot be played here, and for a wrong number of players.
    """

    version: int | str

    def __init__(
        self,
        env: str,
        players: int | None = None,
        options: Mapping[str, Any] | None = None,
        scenarios: int = 1000,
        held_out: int = 200,
        deal: Literal["scenario", "match"] = "scenario",
        boards: Literal["all", "last"] = "all",
        brackets: bool = False,
        max_requests: int = 100,
        max_retries: int = 5,
        cpu_s: float = 10.0,
        invalid: float | None = None,
        invalid_others: float | None = None,
        returns: tuple[float, float] | list[float] | None = None,
        success: float = 1.0,
    ) -> None:
        self.version = f"1 of textarena {library().__version__}"
        if env not in (ids := environments()):
            raise InputError(f"game.env={env} is no environment of TextArena{nearest(env, ids)}")
        facts = known(env)
        facts.check(env)
        self.env, self.deal = env, deal
        self.name = "textarena_" + "".join(each if each.isalnum() else "_" for each in env).lower()
        self.counts = dict(zip(SPLITS, (scenarios, held_out, held_out), strict=True))
        self.roles = tuple(f"player_{number}" for number in range(facts.seats(env, players)))
        self.facts = _facts(facts, returns, invalid, invalid_others, max_requests, max_retries)
        self.rules = Rules(
            partial(Raw, env, dict(options or {})), self.roles, self.facts, boards, brackets, success, cpu_s,
            (invalid, invalid_others),
        )  # fmt: skip

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The seeds of a split."""
        start = SPLITS.index(split) * FAR
        return [
            Scenario(f"{self.env}:{seed}", {"env": self.env, "seed": seed})
            for seed in range(start, start + self.counts[split])
        ]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        """A match that is dealt by the scenario's seed, or by the match's own."""
        deal = scenario.data["seed"] if self.deal == "scenario" else seed
        return GeneratorMatch(Table(self.rules, scenario, deal, seed).play())

    def scripts(self) -> Mapping[str, Script]:
        """The random player."""
        return {"random": random}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """None that could be named: what an environment discloses, and when, only its own code knows."""
        return {}


def _facts(
    known: Environment,
    returns: Sequence[float] | None,
    invalid: float | None,
    others: float | None,
    max_requests: int,
    max_retries: int,
) -> Facts:
    low, high = returns or known.returns
    paid = [worth for worth in (low, high, invalid, others, 0.0) if worth is not None]
    zero_sum = known.zero_sum and invalid is None and others is None
    return Facts(min(paid), max(paid), max_requests, max_retries, zero_sum, metrics=METRICS)
