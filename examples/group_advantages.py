"""A credit of one's own: advantages within the matches that share a scenario (as in GRPO, arXiv:2402.03300)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from parley import Credited, Episode, Log, Sample, credited, logs


@dataclass(frozen=True)
class GroupAdvantages:
    """Each reply's reward is its log's advantage: (score - the group's mean) / the group's standard deviation.

    A group is the matches of one scenario (`play.group` of them), for each seat. One of equal scores teaches nothing.
    `score` names a metric or a scorer's score that counts in place of the payoff.
    """

    score: str | None = None
    mix: int = 0  # demonstrations that it wants in each round

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        groups: dict[tuple[str, str], list[float]] = defaultdict(list)
        for log in logs(episodes, player):  # numbers are kept, not matches: a round may be larger than memory
            groups[log.episode.scenario.id, log.seat].append(self._score(log))
        samples, table = list[Sample](), []
        for log in logs(episodes, player):
            scores = groups[log.episode.scenario.id, log.seat]
            score, mean, spread = self._score(log), fmean(scores), pstdev(scores)
            replies = log.replies() if spread else []
            samples += log.samples({request: ((score - mean) / spread, 1.0) for request in replies})
            why = "all of its group score the same" if not spread else "trained" if replies else "no legal reply"
            table.append(log.verdict(why, bool(replies), score, mean, replies))
        return credited(samples, table, demonstrations)

    def _score(self, log: Log) -> float:
        found = log.score if self.score is None else log.metric(self.score)
        return 0.0 if found is None else found
