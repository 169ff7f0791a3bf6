"""The environments of TextArena 0.7 behind the game contract.

A scenario is a seed in its split's range. It seeds the environment's deal; later chance comes from the match's own seed
(`deal="scenario"`), so that all matches of a group begin alike. If an environment draws nothing, all its scenarios are
equal, and held-out ones are not really held out.

A seat gets the new messages since its last turn, without the echo of its own reply. An invalid move is retried as often
as the environment allows; then the seat is out, or the match ends, and the seat is to blame. Outcomes: decided or tie
(of a game for one win or loss), invalid, cut (after `max_requests`), context, crash.
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

FAR = 10**7  # distance between the seeds of two splits


class TextArena:
    """The game.

    env           an id of TextArena, such as TicTacToe-v0
    players       seats of a match; None: the fewest that the environment supports
    options       arguments of the environment
    scenarios     scenarios of the train split; held_out: of each of the other two
    deal          whether the deal comes from the scenario's seed, or all chance from the match's
    boards        all, or last: of several new boards show only the newest
    brackets      whether to put a reply without brackets into brackets
    max_requests  limit after which a match is cut off; max_retries: consecutive retries before it is given up
    cpu_s         limit of CPU-seconds of one call into the environment
    invalid       payoff of a seat after an invalid move; invalid_others: of the others if it ends the match; None:
                  TextArena's rewards
    returns       least and greatest reward, for environments missing from environments.txt
    success       minimum reward that wins a game for one

    InputError for an environment that is unknown or cannot be played, and for a wrong number of players.
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
        """A match dealt by the scenario's seed, or by the match's own."""
        deal = scenario.data["seed"] if self.deal == "scenario" else seed
        return GeneratorMatch(Table(self.rules, scenario, deal, seed).play())

    def scripts(self) -> Mapping[str, Script]:
        """The random player."""
        return {"random": random}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """{}: only an environment's own code knows what it discloses, and when."""
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
