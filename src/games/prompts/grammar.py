"""Probabilistic context-free grammars: sampling of sentences, and log-probabilities of texts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

Rule = tuple[float, tuple[str, ...]]  # weight, replacement of a symbol


@dataclass(frozen=True, slots=True)
class Grammar:
    """`rules` maps each symbol to weighted replacements (weights are relative); everything that is no symbol is a word.

    Left recursion raises RecursionError.
    """

    rules: Mapping[str, Sequence[Rule]]

    def draw(self, symbol: str, random: Random) -> list[str]:
        """The words of one sentence."""
        if symbol not in self.rules:
            return [symbol]
        (_, parts), *_ = random.choices(self.rules[symbol], [weight for weight, _ in self.rules[symbol]])
        return [word for part in parts for word in self.draw(part, random)]

    def logprob(self, symbol: str, words: Sequence[str]) -> float:
        """log p(words | symbol) in nats, over all derivations; -inf if there is none. (The inside probability, computed
        top-down.)"""

        @cache
        def ends(part: str, start: int) -> Mapping[int, float]:
            """Possible ends of `part` from `start`, with the probability of the words between."""
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
