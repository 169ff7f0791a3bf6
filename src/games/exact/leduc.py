"""Leduc poker (Southey et al. 2005): six cards, two rounds of betting, one public card.

The deck has J, Q and K twice. Each seat puts in one chip and is dealt a card. In each round `first` begins; a seat may
call (put in what the other has put in, or check), raise (two chips in the first round, four in the second, at most two
raises a round) or, where it is behind, fold. The public card is shown between the rounds. At the end a pair with it
wins, else the higher rank; equal ranks share. A scenario is a deal; every split holds all 120 deals, equally likely,
and seats see ranks, not suits. A seat without a legal reply pays `fine` to the other.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from itertools import permutations
from typing import Literal

from ..base import Facts, GeneratorMatch, Marks, Match, Out, Reply, Request, Result, Scenario, Script, Turns, View
from ..scripts import Mixed, legal_replies, uniform
from .table import METRICS, ROLES, choice, other, settled

RANKS = ("J", "Q", "K")
DECK = tuple(rank + suit for rank in RANKS for suit in "ab")
SIZES = (2, 4)  # chips of a raise, by round
RAISES = 2  # at most in a round
PROMPTS = {  # the opening, what is told of the public card and of the opponent's move, the question
    "compact": ("you hold {card} .", "the public card is {card} .", "they {move} .", "{replies} ?"),
    "chat": (
        "You play Leduc poker. The deck has six cards: J, Q and K, each twice, J < Q < K. You hold {card}; your "
        "opponent holds another card. Each of you has put one chip into the pot. There are two rounds of betting, "
        "with at most two raises each: a raise adds two chips to a call in the first round, four in the second. "
        "Between the rounds a public card is shown. At the end whoever has the rank of the public card wins the pot, "
        "else the higher card wins. Call means to put in what your opponent has put in (nothing, if that is the "
        "same); who folds loses the pot. Answer with one word of those that are offered, and nothing else.",
        "The public card is {card}.",
        "Your opponent's move: {move}.",
        "It is your move: {replies}?",
    ),
}


class Leduc:
    """The game.

    prompt   compact (few words, for tiny models) or chat (the rules in sentences)
    retries  retry requests after an illegal reply before it ends the match
    fine     chips that a seat without a legal reply pays; 13 is the largest loss by the rules
    """

    name = "leduc"
    version = 1
    roles = ROLES

    def __init__(self, prompt: Literal["compact", "chat"] = "compact", retries: int = 0, fine: float = 13.0) -> None:
        self.prompt, self.retries, self.fine = PROMPTS[prompt], retries, float(fine)
        most = max(13.0, self.fine)
        self.facts = Facts(
            -most, most, 8 * (1 + retries), retries, zero_sum=True, metrics=METRICS, held_out=False, enumerable=True
        )

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The 120 deals of two own cards and a public one, equally likely. Deals of the same ranks are one cluster."""
        deals = permutations(DECK, 3)
        return [
            Scenario(a + b + c, {"first": a[0], "second": b[0], "public": c[0]}, a[0] + b[0] + c[0])
            for a, b, c in deals
        ]

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; `seed` is unused."""
        return GeneratorMatch(_Hand(self, scenario.data).turns())

    def scripts(self) -> Mapping[str, Script]:
        """uniform; loose (raises by the rank of its own card, for imitation); caller (always calls)."""
        return SCRIPTS

    def secrets(self, scenario: Scenario) -> Mapping[str, Sequence[str]]:
        """Each seat's card, if the other's has another rank. (The public card is shown during the match.)"""
        if scenario.data["first"] == scenario.data["second"]:
            return {}
        return {seat: [f"you hold {card}", f'"card": "{card}"'] for seat in ROLES if (card := scenario.data[seat])}


class _Hand:
    """One match in progress."""

    def __init__(self, game: Leduc, card: Mapping[str, str]) -> None:
        self.game, self.card = game, card
        self.views = {seat: View(seat, game.prompt[0].format(card=card[seat])) for seat in ROLES}
        self.paid = dict.fromkeys(ROLES, 1)
        self.public = ""
        self.moves: list[list[str]] = []  # by round
        self.marks: Marks = {}

    def turns(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        try:
            for number, size in enumerate(SIZES):
                if number:
                    self._show()
                folded = yield from self._round(size)
                if folded:
                    return settled(folded, float(self.paid[folded]), "fold", self.marks)
        except Out as out:
            return settled(out.blame[0], self.game.fine, out.outcome, self.marks, out.blame)
        return self._showdown()

    def _show(self) -> None:
        self.public = self.card["public"]
        for view in self.views.values():
            view.tell(self.game.prompt[1].format(card=self.public))

    def _round(self, size: int) -> Generator[Request, Reply, str]:
        """A round of betting; returns the seat that folded, or ""."""
        moves: list[str] = []
        self.moves.append(moves)
        while len(moves) < 2 or moves[-1] != "call":
            seat = ROLES[len(moves) % 2]
            behind = self.paid[other(seat)] > self.paid[seat]
            replies = [*["fold"] * behind, "call", *["raise"] * (moves.count("raise") < RAISES)]
            moves.append((yield from self._asked(seat, replies)))
            self.views[other(seat)].tell(self.game.prompt[2].format(move=moves[-1]))
            if moves[-1] == "fold":
                return seat
            self.paid[seat] = self.paid[other(seat)] + size * (moves[-1] == "raise")
        return ""

    def _asked(self, seat: str, replies: Sequence[str]) -> Generator[Request, Reply, str]:
        self.views[seat].tell(self.game.prompt[3].format(replies=" or ".join(replies)))
        seen = {"card": self.card[seat], "public": self.public, "moves": [list(moves) for moves in self.moves]}
        return choice(self.views[seat], replies, self.game.retries, self.marks, seen)

    def _showdown(self) -> Result:
        strength = {seat: (self.card[seat] == self.public, RANKS.index(self.card[seat])) for seat in ROLES}
        loser = min(ROLES, key=strength.__getitem__)
        even = strength[loser] == strength[other(loser)]
        return settled(loser, 0.0 if even else float(self.paid[loser]), "tie" if even else "showdown", self.marks)


def _loose(request: Request) -> dict[str, float]:
    """Raises with a probability by its own rank, a pair counted as a king; the other replies share the rest."""
    seen, replies = request.observation or {}, legal_replies(request)
    share = LOOSE["K" if seen["card"] == seen["public"] else seen["card"]] if "raise" in replies else 0.0
    others = [reply for reply in replies if reply != "raise"]
    return {reply: share if reply == "raise" else (1 - share) / len(others) for reply in replies}


LOOSE = {"J": 0.15, "Q": 0.35, "K": 0.65}
SCRIPTS: Mapping[str, Script] = {
    "uniform": uniform,
    "loose": Mixed(_loose),
    "caller": Mixed(lambda request: {reply: float(reply == "call") for reply in legal_replies(request)}),
}
