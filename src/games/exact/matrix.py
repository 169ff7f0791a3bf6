"""Matrix games: both seats choose a word simultaneously, and a table gives the payoffs.

`first` chooses a row, `second` a column; neither sees the other's choice. There is one scenario, in every split. A seat
without a legal reply gets the lowest payoff of the table; the other gets the opposite of it in a zero-sum game, else
the mean of its own payoffs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ...system.files import InputError
from ..base import Facts, GeneratorMatch, Marks, Match, Out, Result, Scenario, Script, Turns, View
from ..scripts import Mixed, uniform
from .table import METRICS, ROLES, choice, measured, other

PROMPTS = {
    "compact": ("", "{replies} ?"),
    "chat": (
        "You and your opponent choose one word each, at once and unseen. What each gets:\n{payoffs}\n"
        "Answer with one of your words, and nothing else.",
        "Your choice: {replies}?",
    ),
}


class Matrix:
    """The game.

    moves    the words of `first`; `columns` those of `second`, if different
    payoffs  a list for each row, with an entry for each column: [first's, second's], or one number in a zero-sum game
    prompt   compact (few words, for tiny models) or chat (the payoffs in words)
    retries  retry requests after an illegal reply before it ends the match
    """

    name = "matrix"
    version = 1
    roles = ROLES

    def __init__(
        self,
        moves: Sequence[str],
        payoffs: Sequence[Sequence[float | Sequence[float]]],
        columns: Sequence[str] | None = None,
        prompt: Literal["compact", "chat"] = "compact",
        retries: int = 0,
    ) -> None:
        self.moves = {"first": tuple(moves), "second": tuple(columns or moves)}
        self.prompt, self.retries = PROMPTS[prompt], retries
        self.payoffs = _table(payoffs, *self.moves.values())
        every = [each for pair in self.payoffs.values() for each in pair]
        self.zero_sum = all(a + b == 0 for a, b in self.payoffs.values())
        self.low = min(every)
        self.facts = Facts(
            self.low, max(every), 2 * (1 + retries), retries, zero_sum=self.zero_sum, metrics=METRICS, held_out=False,
            enumerable=True,
        )  # fmt: skip

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The only scenario."""
        return [Scenario("matrix", {})]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; `seed` is unused."""
        return GeneratorMatch(self._turns())

    def scripts(self) -> Mapping[str, Script]:
        """uniform, and for each word of both seats a script of this name that always says it."""
        both = [move for move in self.moves["first"] if move in self.moves["second"]]
        return {"uniform": uniform} | {move: _always(move) for move in both}

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """None: both seats know the table."""
        return {}

    def _turns(self) -> Turns:
        chosen: dict[str, str] = {}
        marks: Marks = {}
        try:
            for seat in ROLES:
                view = View(seat, self.prompt[0].format(payoffs=self._told(seat)))
                view.tell(self.prompt[1].format(replies=" or ".join(self.moves[seat])))
                chosen[seat] = yield from choice(view, self.moves[seat], self.retries, marks, {})
        except Out as out:
            return self._result(self._fined(out.blame[0]), out.outcome, marks, out.blame)
        return self._result(self.payoffs[chosen["first"], chosen["second"]], "chosen", marks)

    def _told(self, seat: str) -> str:
        """The table in words, from one seat's side."""
        lines = []
        for (row, column), (first, second) in self.payoffs.items():
            own, their, mine, yours = (row, column, first, second) if seat == "first" else (column, row, second, first)
            lines.append(f"you {own}, they {their}: you {mine:g}, they {yours:g}")
        return "\n".join(lines)

    def _fined(self, seat: str) -> tuple[float, float]:
        own = [pair[ROLES.index(other(seat))] for pair in self.payoffs.values()]
        rest = -self.low if self.zero_sum else sum(own) / len(own)
        return (self.low, rest) if seat == "first" else (rest, self.low)

    def _result(self, pair: tuple[float, float], outcome: str, marks: Marks, blame: tuple[str, ...] = ()) -> Result:
        returns = dict(zip(ROLES, pair, strict=True))
        lead = pair[0] - pair[1]
        words = ("tie", "tie") if lead == 0 else ("win", "loss") if lead > 0 else ("loss", "win")
        return Result(returns, outcome, dict(zip(ROLES, words, strict=True)), blame, measured(returns, blame), marks)


def _always(move: str) -> Script:
    return Mixed(lambda request: {move: 1.0})


def _table(
    payoffs: Sequence[Sequence[float | Sequence[float]]], rows: Sequence[str], columns: Sequence[str]
) -> dict[tuple[str, str], tuple[float, float]]:
    """(row, column) -> both payoffs; InputError unless there is an entry for each pair of different words."""
    for words in (rows, columns):
        if not words or len(set(words)) != len(words) or any(not word or word != word.strip() for word in words):
            raise InputError(f"game.moves: {list(words)} are to be different words without white space around them")
    if len(payoffs) != len(rows) or any(len(row) != len(columns) for row in payoffs):
        shape = f"{len(payoffs)} rows of {[len(row) for row in payoffs]}"
        raise InputError(f"game.payoffs: {len(rows)} rows of {len(columns)} entries are needed, got {shape}")
    pairs = {(a, b): entry for a, row in zip(rows, payoffs, strict=True) for b, entry in zip(columns, row, strict=True)}
    return {key: _pair(entry) for key, entry in pairs.items()}


def _pair(entry: float | Sequence[float]) -> tuple[float, float]:
    if isinstance(entry, int | float):
        return float(entry), 0.0 - float(entry)
    if len(entry) != 2:
        raise InputError(f"game.payoffs: an entry is one number or [first's, second's], got {list(entry)}")
    return float(entry[0]), float(entry[1])
