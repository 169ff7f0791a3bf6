"""A scorer of one's own: how few words a seat needed, beside what the rules paid."""

from __future__ import annotations

from dataclasses import dataclass

from parley import Episode, Scores


@dataclass(frozen=True)
class Brevity:
    """`brief`: 1 for a seat whose replies have at most `words` words on average, falling to 0 at twice as many."""

    words: float = 4.0

    def __call__(self, episode: Episode) -> Scores:
        return {"brief": {seat: self._brief(episode, seat) for seat in episode.result.returns}}

    def _brief(self, episode: Episode, seat: str) -> float:
        lengths = [len(turn.text.split()) for turn in episode.turns if turn.seat == seat]
        mean = sum(lengths) / len(lengths) if lengths else 0.0
        return max(0.0, min(1.0, 2 - mean / self.words))
