"""Probabilistic context-free grammars: sentences are drawn from one, and it says how likely it finds any text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

Rule = tuple[float, tuple[str, ...]]  # weight, what a symbol becomes


@dataclass(frozen=True, slots=True)
class Grammar:
    """`rules` says what each symbol becomes, with which weight (shares of their sum); what is no symbol is a word.

    No symbol may come back as its own first part (left recursion): RecursionError.
    """

    rules: Mapping[str, Sequence[Rule]]

    def draw(self, symbol: str, random: Random) -> list[str]:
        """The words of one sentence."""
        if symbol not in self.rules:
            return [symbol]
        (_, parts), *_ = random.choices(self.rules[symbol], [weight for weight, _ in self.rules[symbol]])
        return [word for part in parts for word in self.draw(part, random)]

    def logprob(self, symbol: str, words: Sequence[str]) -> float:
        """log p(words | symbol) in nats, over all derivations; -inf where there is none. (The inside probability, from
        the top down.)"""

        @cache
        def ends(part: str, start: int) -> Mapping[int, float]:
            """Where `part` can end that begins at `start`, with the probability of the words between."""
            if part not in self.rules:
                return {start + 1: 1.0} if start < len(words) and words[start] == part else {}
            total, found = sum(weight for weight, _ in self.rules[part]), defaultdict[int, float](float)
            for weight, parts in self.rules[part]:
                for end, chance in through(parts, start).items():
                    found[end] += weight / total * chance
            return found

        def through(parts: Sequence[str], start: int) -> Mapping[int, float]:
            reached: Mapping[int, float] = {start: 1.0}
            for part in parts:
                following = defaultdict[int, float](float)
                for middle, chance in reached.items():
                    for end, more in ends(part, middle).items():
                        following[end] += chance * more
                reached = following
            return reached

        chance = ends(symbol, 0).get(len(words), 0.0)
        return math.log(chance) if chance else -math.inf
