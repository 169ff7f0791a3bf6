"""Kuhn poker (Kuhn 1950): three cards, a chip each in the pot, one bet.

Each seat is dealt one of J, Q, K. `first` passes or bets a chip; `second` answers; after a pass and a bet `first`
answers with a pass (a fold) or a bet (a call). A fold loses the pot, else the higher card wins it. A scenario is a
deal; every split holds all six deals, and matches are deterministic. The value of the game for `first` is -1/18. A seat
without a legal reply pays `fine` to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Literal

from ..base import Facts, GeneratorMatch, Marks, Match, Out, Request, Result, Scenario, Script, Turns, View
from ..scripts import Mixed, uniform
from .table import METRICS, ROLES, choice, settled

CARDS = ("J", "Q", "K")
MOVES = ("pass", "bet")
ENDS = {("pass", "pass"), ("bet", "pass"), ("bet", "bet"), ("pass", "bet", "pass"), ("pass", "bet", "bet")}
PROMPTS = {  # the opening, the first question, and the question after the opponent's move
    "compact": ("you hold {card} .", "pass or bet ?", "they {move} . pass or bet ?"),
    "chat": (
        "You play Kuhn poker. The deck has three cards, J < Q < K. You hold {card}; your opponent holds another card. "
        "Each of you has put one chip into the pot, and a bet adds one more. Whoever passes after a bet folds and "
        "loses the pot. After two passes, or a bet that is answered by a bet, the higher card wins the pot. Answer "
        "with one word, pass or bet, and nothing else.",
        "It is your move: pass or bet?",
        "Your opponent's move: {move}. It is your move: pass or bet?",
    ),
}


class Kuhn:
    """The game.

    prompt   compact (few words, for tiny models) or chat (the rules in sentences)
    retries  retry requests after an illegal reply before it ends the match
    fine     chips that a seat without a legal reply pays; 2 is the largest loss by the rules
    """

    name = "kuhn"
    version = 1
    roles = ROLES

    def __init__(self, prompt: Literal["compact", "chat"] = "compact", retries: int = 0, fine: float = 2.0) -> None:
        self.prompt, self.retries, self.fine = PROMPTS[prompt], retries, float(fine)
        most = max(2.0, self.fine)
        self.facts = Facts(
            -most, most, 3 * (1 + retries), retries, zero_sum=True, metrics=METRICS, held_out=False, enumerable=True
        )

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The six deals, equally likely."""
        return [Scenario(a + b, {"first": a, "second": b}) for a, b in permutations(CARDS, 2)]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; `seed` is unused."""
        return GeneratorMatch(self._turns(scenario.data))

    def scripts(self) -> Mapping[str, Script]:
        """uniform; loose (bets by its card only, for imitation); bold (always bets); nash (an equilibrium)."""
        return SCRIPTS

    def _turns(self, card: Mapping[str, str]) -> Turns:
        opening, question, answer = self.prompt
        views = {seat: View(seat, opening.format(card=card[seat])) for seat in ROLES}
        moves: list[str] = []
        marks: Marks = {}
        try:
            while tuple(moves) not in ENDS:
                seat = ROLES[len(moves) % 2]
                views[seat].tell(answer.format(move=moves[-1]) if moves else question)
                seen = {"card": card[seat], "moves": list(moves)}
                moves.append((yield from choice(views[seat], MOVES, self.retries, marks, seen)))
        except Out as out:
            return settled(out.blame[0], self.fine, out.outcome, marks, out.blame)
        return _settled(moves, card, marks)


def _settled(moves: Sequence[str], card: Mapping[str, str], marks: Marks) -> Result:
    if "bet" in moves and moves[-1] == "pass":
        return settled(ROLES[(len(moves) - 1) % 2], 1.0, "fold", marks)
    loser = min(ROLES, key=lambda seat: CARDS.index(card[seat]))
    return settled(loser, 2.0 if "bet" in moves else 1.0, "showdown", marks)


def betting(chance: Mapping[tuple[str, str], float]) -> Script:
    """A script that bets with given probabilities, by (card, first letters of the moves so far)."""

    def chances(request: Request) -> dict[str, float]:
        seen = request.observation or {}
        bet = chance[seen["card"], "".join(move[0] for move in seen["moves"])]
        return {"pass": 1 - bet, "bet": bet}

    return Mixed(chances)


def equilibrium(alpha: float) -> dict[tuple[str, str], float]:
    """The betting probabilities of the equilibrium in which `first` bets J with probability `alpha`, 0 to 1/3 (Kuhn
    1950)."""
    first = {("J", ""): alpha, ("Q", ""): 0.0, ("K", ""): 3 * alpha}
    called = {("J", "pb"): 0.0, ("Q", "pb"): alpha + 1 / 3, ("K", "pb"): 1.0}
    second = {("J", "p"): 1 / 3, ("Q", "p"): 0.0, ("K", "p"): 1.0, ("J", "b"): 0.0, ("Q", "b"): 1 / 3, ("K", "b"): 1.0}
    return first | called | second


SITUATIONS = [(card, moves) for card in CARDS for moves in ("", "p", "b", "pb")]
LOOSE = {"J": 0.25, "Q": 0.5, "K": 0.8}
SCRIPTS: Mapping[str, Script] = {
    "uniform": uniform,
    "loose": betting({(card, moves): LOOSE[card] for card, moves in SITUATIONS}),
    "bold": betting(dict.fromkeys(SITUATIONS, 1.0)),
    "nash": betting(equilibrium(1 / 6)),
}
