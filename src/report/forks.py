"""Forks of token streams: replies whose prompt did not extend the tokens that the seat had seen and sampled before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..data.episode import Episode


class Forks:
    """Counts forks of the players' own streams, and replies with a thought, in the added matches."""

    def __init__(self, players: Iterable[str]) -> None:
        self._players = set(players)
        self._replies = self._thoughts = 0
        self._reasons: Counter[str] = Counter()

    def add(self, episode: Episode) -> None:
        for turn in episode.own:
            if turn.call is None or episode.players[turn.seat] not in self._players:
                continue
            self._replies += 1
            self._thoughts += bool(turn.thought)
            if turn.call.fork is not None:
                self._reasons[turn.call.fork] += 1

    def figures(self) -> dict[str, float]:
        """Number of forks, their share of the replies, and the share of replies with a thought; {} without replies."""
        if not self._replies:
            return {}
        forks = self._reasons.total()
        shares = {"fork_share": forks / self._replies, "thought_share": self._thoughts / self._replies}
        return {"forks": forks, **shares}

    def text(self) -> str:
        """One line about the forks and their reasons; "" if there are none."""
        if not (forks := self._reasons.total()):
            return ""
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self._reasons.most_common())
        return (
            f"{forks:,} of {self._replies:,} replies ({forks / self._replies:.0%}) forked their token stream: {reasons}"
        )
