"""One match of a TextArena environment, reply by reply."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..base import Facts, Marks, Reply, Request, Result, Scenario, Turns, View
from ..isolation import Enclosure, Overrun
from .port import Port, Told
from .scripts import listed

METRICS = {
    "reward": "TextArena's reward of the seat; 0 in a match that was cut off or failed",
    "win_rate": "1 for the seats with the highest reward, where rewards differ; of a game for one 1 for the full one",
    "draw_rate": "1 if all seats got the same",
    "invalid_rate": "1 for a seat that an invalid move put out of the match",
    "retry_rate": "invalid moves of the seat that were asked for again",
    "turns": "replies of the match",
    "cut_rate": "1 if the match was cut off at max_requests",
    "crash_rate": "1 if the environment failed: it raised, took too long, named no seat or gave no number as a reward",
    "played_rate": "1 if the match came to its end without an invalid move, a cut or a failure",
}
YOUR_TURN = "It is your turn."
T = TypeVar("T")


class Fault(Exception):
    """The environment failed. `told` is the reason in one line; `blame` is the seat whose reply caused it."""

    def __init__(self, told: str, blame: tuple[str, ...] = ()) -> None:
        super().__init__(told)
        self.told, self.blame = told, blame


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a match.

    boards     all, or last: of several new boards show only the newest
    brackets   whether to put a reply without brackets into brackets
    success    minimum reward that wins a game for one
    invalid    payoff of a seat after an invalid move, and of the others if it ends the match; None: TextArena's
    """

    open: Callable[[], Port]
    roles: tuple[str, ...]
    facts: Facts
    boards: Literal["all", "last"]
    brackets: bool
    success: float
    cpu_s: float
    invalid: tuple[float | None, float | None] = (None, None)

    def paid(self, rewards: Mapping[str, float], blame: tuple[str, ...], ended: bool) -> dict[str, float]:
        """The returns; `ended`: the match ended by an invalid move."""
        own, others = self.invalid
        worth = dict(rewards)
        if own is not None:
            worth |= dict.fromkeys(blame, own)
        if others is not None and ended:
            worth |= {role: others for role in rewards if role not in blame}
        return worth

    def fine(self, seat: str) -> dict[str, float]:
        """The returns after a reply that made the environment fail: the least reward for its seat, and in a zero-sum
        game the opposite for the others."""
        least = min(self.facts.min_return, 0.0)
        share = -least / max(1, len(self.roles) - 1) if self.facts.zero_sum else 0.0
        return {role: least if role == seat else share for role in self.roles}


class Table:
    """One match in progress."""

    def __init__(self, rules: Rules, scenario: Scenario, deal: int, seed: int) -> None:
        self.rules, self.scenario, self.deal, self.seed = rules, scenario, deal, seed
        self.chance = Enclosure(deal, rules.cpu_s)
        self.views = {role: View(role) for role in rules.roles}
        self.legal: dict[str, list[str]] = {role: [] for role in rules.roles}
        self.retried = dict.fromkeys(rules.roles, 0)
        self.row = 0  # consecutive retries of the seat at turn
        self.marks: Marks = {}
        self.turns = 0
        self.out = False  # whether the last reply put its seat out of the match

    def play(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        reply: Reply | None = None
        try:
            self.call(self._begin)
            if self.seed != self.deal:
                self.chance.reseed(self.seed)
            over, retry = False, False
            while not over:
                if self.turns == self.rules.facts.max_requests:
                    return self._nothing("cut", self._invalid(), cut_rate=1.0)
                request = self._ask(retry)
                reply = yield request
                self.turns += 1
                if reply.finish == "context":
                    return self._nothing("context", (request.seat,))
                self.views[request.seat].hear(reply)
                over, retry = self._step(request.seat, reply)
                if self.row > self.rules.facts.max_retries:
                    return self._nothing("invalid", (request.seat,))
            return self._end()
        except Fault as fault:
            warnings.warn(f"{self.scenario.id}: {fault.told}", stacklevel=2)
            if reply is not None:
                self.marks.setdefault(reply.id, {})["crash"] = fault.told
            return self._nothing("crash", fault.blame, crash_rate=1.0)

    def call(self, act: Callable[[], T], seat: str = "") -> T:
        """Calls into the environment. Fault if it fails; `seat` is the seat whose reply it handled."""
        try:
            return self.chance.run(act)
        except Overrun:
            raise Fault(f"the environment took more than {self.rules.cpu_s:g} CPU-seconds for one call") from None
        except Exception as error:  # foreign code may raise anything
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise Fault(f"the environment raised {told[:200]}", (seat,) if seat else ()) from error

    def _begin(self) -> None:
        self.env = self.rules.open()
        self.env.reset(len(self.rules.roles), self.deal)

    def _ask(self, retry: bool) -> Request:
        number, told = self.call(self.env.observe)
        if not isinstance(number, int) or number not in range(len(self.rules.roles)):
            raise Fault(f"the environment gave the turn to {number!r}, which is no seat of the match")
        seat = self.rules.roles[number]
        lines = self._lines(number, told)
        for line in lines or [YOUR_TURN]:
            self.views[seat].tell(line)
        if (moves := listed(lines)) or not retry:
            self.legal[seat] = moves
        observation = {"lines": lines} | ({"legal": self.legal[seat]} if self.legal[seat] else {})
        return self.views[seat].ask("retry" if retry else "act", observation=observation)

    def _lines(self, number: int, told: Sequence[Told]) -> list[str]:
        """The new lines for a seat, without its own replies, which are in its view already."""
        boards = [place for place, each in enumerate(told) if each.kind == "board"]
        old = set(boards[:-1]) if self.rules.boards == "last" else set()
        shown = [
            each
            for place, each in enumerate(told)
            if place not in old and not (each.kind == "action" and each.source == number)
        ]
        return [
            f"[Player {each.source}] {each.text}" if each.kind == "action" and each.source >= 0 else each.text
            for each in shown
        ]

    def _step(self, seat: str, reply: Reply) -> tuple[bool, bool]:
        """(whether the match is over, whether the same seat gets a retry for an invalid move)."""
        errors, out = self.env.errors(), self._invalid()
        text = reply.text
        if self.rules.brackets and not {"[", "]"} & set(text):
            text = f"[{text}]"
        over = self.call(lambda: self.env.step(text), seat)
        self.out = seat in self._invalid() and seat not in out
        if self.out:
            self.marks[reply.id] = {"retry": "invalid, and out"}
        retry = not over and self.env.errors() > errors
        self.row = self.row + 1 if retry else 0
        if retry:
            self.marks[reply.id] = {"retry": "invalid"}
            self.retried[seat] += 1
        return over or len(self.env.gone()) >= len(self.rules.roles), retry

    def _invalid(self) -> tuple[str, ...]:
        return tuple(self.rules.roles[number] for number in sorted(self.env.invalid()))

    def _end(self) -> Result:
        given = self.call(self.env.rewards)
        rewards = {role: self._number(role, given.get(place)) for place, role in enumerate(self.rules.roles)}
        blame = self._invalid()
        level = len(rewards) > 1 and len(set(rewards.values())) == 1
        won = self.rules.success if len(rewards) == 1 else max(rewards.values())
        words = {role: "tie" if level else "win" if worth >= won else "loss" for role, worth in rewards.items()}
        outcome = "tie" if level else "decided" if len(rewards) > 1 else words[self.rules.roles[0]]
        words |= dict.fromkeys(blame, "invalid")
        return self._result("invalid" if self.out else outcome, words, blame, rewards)

    def _number(self, role: str, reward: object) -> float:
        if reward is None:
            return 0.0
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            raise Fault(f"the environment gave {role} the reward {reward!r}, which is no number")
        return float(reward)

    def _nothing(self, outcome: str, blame: tuple[str, ...] = (), **metrics: float) -> Result:
        """The result of a match without a regular end: all returns are 0, except for a fine of the seat whose reply
        stopped it."""
        rewards = dict.fromkeys(self.rules.roles, 0.0)
        if outcome in ("crash", "invalid") and blame:
            rewards |= self.rules.fine(blame[0])
        return self._result(outcome, dict.fromkeys(self.rules.roles, outcome), blame, rewards, **metrics)

    def _result(
        self,
        outcome: str,
        words: Mapping[str, str],
        blame: tuple[str, ...],
        rewards: Mapping[str, float],
        **metrics: float,
    ) -> Result:
        paid = self.rules.paid(rewards, blame, self.out)
        found: dict[str, float | Mapping[str, float]] = {
            "reward": paid,
            "win_rate": {role: float(word == "win") for role, word in words.items()},
            "draw_rate": float(outcome == "tie"),
            "invalid_rate": {role: float(role in blame and outcome != "context") for role in words},
            "retry_rate": {role: float(count) for role, count in self.retried.items()},
            "turns": float(self.turns),
            "played_rate": float(not blame and outcome not in ("cut", "crash")),
        }
        found |= {"cut_rate": 0.0, "crash_rate": 0.0, **metrics}
        return Result(paid, outcome, words, blame, found, self.marks)
