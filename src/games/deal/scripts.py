"""Scripted negotiators: honest talk in a small vocabulary, which a tiny model can learn.

Every offer states both sides, `i take books 2 hats 0 balls 1 you get books 0 hats 1 balls 1`, the item before its
number, and an acceptance repeats the split from its own side, so that the numbers of a proposal can always be copied
from the last message. Scripts see only the request's observation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from ..base import Json, Request, Script
from .contexts import ITEMS, Triple, allocations, points, rest

GREETINGS = ("hello", "hi there", "good day")
ACCEPTS = ("deal", "ok", "yes")
OFFERS = ("", "how about ", "then ")
REFUSALS = ("no ", "sorry ", "not enough ")

_SIDE = re.compile(r"\b(i|you)\b")
_CLAIM = re.compile(r"([0-9]) (book|hat|ball)s?\b|\b(book|hat|ball)s? ([0-9])\b")
_ITEM = {"book": 0, "hat": 1, "ball": 2}


def stated_split(text: str, counts: Triple) -> Triple | None:
    """The speaker's share by the last split stated in `text`; None if it states no possible one."""
    share = None
    parts = _SIDE.split(text.lower())
    for side, clause in zip(parts[1::2], parts[2::2], strict=True):
        claim = {_ITEM[a or b]: int(n or m) for n, a, b, m in _CLAIM.findall(clause)}
        if len(claim) == 3 and all(claim[item] <= count for item, count in enumerate(counts)):
            triple = claim[0], claim[1], claim[2]
            share = triple if side == "i" else rest(counts, triple)
    return share


def accepts(text: str) -> bool:
    """Whether `text` begins like an acceptance."""
    return text.lower().startswith(ACCEPTS)


@dataclass(frozen=True, slots=True)
class Negotiator:
    """A scripted policy and its skill.

    tries     number of random claims considered, of which it offers the best by its own values; 0 considers every
              claim, aims for `accept` points and fewer with every turn, and picks the claim closest to the partner's
              last offer
    accept    minimum own points to accept, drawn from this range for each match
    blind     probability of accepting any offer
    noise     probability that one number of its proposal is off by one (within the counts)
    greet     probability of opening with a greeting
    patience  own actions after which it accepts anything; after twice as many it proposes by itself
    """

    tries: int
    accept: tuple[int, int]
    blind: float = 0.0
    noise: float = 0.0
    greet: float = 0.3
    patience: int = 5

    def __call__(self, request: Request, rng: Random, persona: Random) -> str:
        seen = request.observation
        if seen is None:
            raise ValueError(f"request {request.id!r} has no observation, a scripted negotiator needs one")
        counts, values = _triple(seen["counts"]), _triple(seen["values"])
        least = persona.randint(*self.accept)
        mine, theirs, agreed = _standing(seen["history"], counts)
        patience = self.patience - seen["own_actions"]
        if agreed or seen["partner_proposed"] or patience <= -self.patience:
            share = mine or theirs or self._claim(counts, values, least, theirs, rng)
            return f"[propose] {spell(self._blur(share, counts, rng))}"
        if not self.tries:
            least = max(least - seen["own_actions"], 5)
        if theirs and (points(values, theirs) >= least or rng.random() < self.blind or patience <= 0):
            return f"[message] {rng.choice(ACCEPTS)} {_both(theirs, counts)}"
        if not seen["history"] and rng.random() < self.greet:
            return f"[message] {rng.choice(GREETINGS)}"
        start = rng.choice(REFUSALS if theirs else OFFERS)
        return f"[message] {start}{_both(self._claim(counts, values, least, theirs, rng), counts)}"

    def _claim(self, counts: Triple, values: Triple, least: int, theirs: Triple | None, rng: Random) -> Triple:
        """The share to ask for; `theirs` is the partner's last offer."""
        if self.tries:
            claims = [_triple([rng.randint(0, count) for count in counts]) for _ in range(self.tries)]
            return max(
                claims, key=lambda claim: (points(values, claim), -sum(claim))
            )  # items without value are left to the partner
        granted = theirs or (0, 0, 0)
        enough = [share for share in allocations(counts) if points(values, share) >= least]
        return min(
            enough, key=lambda share: (_excess(share, granted), sum(share), -points(values, share), rng.random())
        )

    def _blur(self, share: Triple, counts: Triple, rng: Random) -> Triple:
        if rng.random() >= self.noise:
            return share
        blurred, item = list(share), rng.randrange(3)
        blurred[item] = min(max(blurred[item] + rng.choice((-1, 1)), 0), counts[item])
        return _triple(blurred)


def _triple(numbers: Json) -> Triple:
    return numbers[0], numbers[1], numbers[2]


def _excess(share: Triple, granted: Triple) -> int:
    """The number of items in `share` beyond those granted."""
    return sum(max(wanted - given, 0) for wanted, given in zip(share, granted, strict=True))


def _both(share: Triple, counts: Triple) -> str:
    return f"i take {spell(share)} you get {spell(rest(counts, share))}"


def spell(share: Triple) -> str:
    """`books 2 hats 0 balls 1`."""
    return " ".join(f"{item} {number}" for item, number in zip(ITEMS, share, strict=True))


def _standing(history: Json, counts: Triple) -> tuple[Triple | None, Triple | None, bool]:
    """(own share by the own last message, own share by the partner's last message, whether they are agreed)."""
    said = {"you": "", "partner": ""}
    for who, text in history[-2:]:
        said[who] = text
    mine, claimed = stated_split(said["you"], counts), stated_split(said["partner"], counts)
    theirs = None if claimed is None else rest(counts, claimed)
    last = history[-1][0] if history else "you"
    agreed = (
        last == "partner" and mine is not None and (theirs == mine or (theirs is None and accepts(said["partner"])))
    )
    return mine, theirs, agreed


SCRIPTS: Mapping[str, Script] = {
    "naive": Negotiator(tries=1, accept=(0, 6), blind=0.5, noise=0.5),
    "fair": Negotiator(tries=5, accept=(4, 6), noise=0.1),
    "skilled": Negotiator(tries=0, accept=(9, 9), greet=0.1),
    "demo": Negotiator(tries=5, accept=(3, 8), blind=0.2, noise=0.6, patience=2),
}
