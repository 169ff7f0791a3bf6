"""Forks of token streams: how often a reply's view did not go on from what its seat had seen and sampled before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..data.episode import Episode


class Forks:
    """Counts the forks of the players' own streams, and the replies with a thought, in the matches that are added."""

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
        """Their number, their share of the replies, and the share of replies with a thought; {} without a reply."""
        if not self._replies:
            return {}
        forks = self._reasons.total()
        shares = {"fork_share": forks / self._replies, "thought_share": self._thoughts / self._replies}
        return {"forks": forks, **shares}

    def text(self) -> str:
        """The forks with their reasons, as a line for people; "" where there are none."""
        if not (forks := self._reasons.total()):
            return ""
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self._reasons.most_common())
        return (
            f"{forks:,} of {self._replies:,} replies ({forks / self._replies:.0%}) forked their token stream: {reasons}"
        )
