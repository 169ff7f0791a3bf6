"""Filtered behaviour cloning's credit: keep the good logs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean  # exact, so that equal scores have exactly their mean
from typing import Literal, TypeAlias

from ...files import InputError
from ..episode import Episode
from ..sample import Sample
from .base import Credited, Log, Numbers, Verdict, credited, decayed, logs

Keep: TypeAlias = Literal["above_avg", "nonzero", "all", "above_group"]


@dataclass(frozen=True, slots=True)
class FilteredBC:
    """Filtered behaviour cloning: keep the logs whose score is strictly above a bar (lm-selfplay, arXiv:2406.18872).

    keep          above_avg: the mean over all logs of the round, zeros included; nonzero: 0; all: no bar;
                  above_group: the mean over the matches of one scenario, per seat (`play.group` matches each; a group
                  of equal scores keeps nothing)
    normalise_by  name of a metric: scores become shares of it (0 where it is not positive), such as what the context
                  allowed (`ceiling` in Deal), so that a lucky context is not taken for skill
    margin        how far above the bar a score must be
    keep_draws    name of a metric, 1 where a match ended in a valid deal: with above_avg and nonzero, both logs of a 0-0
                  match with a valid deal are kept as well when every match of the round sums to zero. The published
                  rule for strict competition, where never dealing is worth as much as the mean, which is always 0.
    reward        of a kept reply, for losses that look at it: score (of its log), one (1, so that a kept log is never held
                  against its replies, whatever its score's sign), or shared (1 over the log, by `decayed` with `decay`)
    mix           demonstrations that are mixed into each round as kind "sft", all of them where there are fewer

    Published, and kept here: the whole log is kept or left. Not kept: illegal replies are never trained on.
    """

    keep: Keep = "above_avg"
    normalise_by: str | None = None
    margin: float = 0.0
    keep_draws: str | None = "agreement_rate"
    reward: Literal["score", "one", "shared"] = "score"
    decay: float = 0.8
    mix: int = 0

    def __call__(self, episodes: Sequence[Episode], player: str, demonstrations: Sequence[Sample] = ()) -> Credited:
        found = logs(episodes, player)
        scores = [self._score(log) for log in found]
        bars, draws = self._bars(found, scores), self._draws(episodes)
        samples: list[Sample] = []
        table: list[Verdict] = []
        for log, score, bar in zip(found, scores, bars):
            above, draw = bar is None or score > bar + self.margin, log.episode.id in draws
            replies = log.replies() if above or draw else []
            samples += log.samples(self._numbers(replies, score))
            why = "kept" if above else "kept as a valid draw" if draw else f"not above the bar ({self.keep})"
            why = "no legal reply of this policy" if (above or draw) and not replies else why
            table.append(log.verdict(why, bool(replies), score, bar, replies))
        return credited(samples, table, demonstrations)

    def _score(self, log: Log) -> float:
        if self.normalise_by is None:
            return log.score
        scale = log.metric(self.normalise_by)
        if scale is None:
            names = sorted(log.episode.result.metrics)
            raise InputError(f"normalise_by={self.normalise_by!r}: match {log.episode.id} has no such metric; it has {names}")
        return log.score / scale if scale > 0 else 0.0

    def _bars(self, found: Sequence[Log], scores: Sequence[float]) -> Sequence[float | None]:
        if self.keep == "above_avg":
            return [mean(scores)] * len(scores) if scores else []
        if self.keep == "above_group":
            groups: dict[tuple[str, str], list[float]] = defaultdict(list)
            for log, score in zip(found, scores):
                groups[log.episode.scenario.id, log.seat].append(score)
            return [mean(groups[log.episode.scenario.id, log.seat]) for log in found]
        if self.keep in ("nonzero", "all"):
            return [0.0 if self.keep == "nonzero" else None] * len(scores)
        raise ValueError(f"keep is {self.keep!r}, expected above_avg, nonzero, all or above_group")

    def _draws(self, episodes: Sequence[Episode]) -> set[str]:
        """Matches that end 0-0 with a valid deal, in a round of zero-sum payoffs."""
        returns = {episode.id: list(episode.result.returns.values()) for episode in episodes}
        if self.keep_draws is None or self.keep not in ("above_avg", "nonzero") or any(abs(sum(each)) > 1e-9 for each in returns.values()):
            return set()
        valid = {episode.id for episode in episodes if episode.result.metrics.get(self.keep_draws)}
        return {match for match in valid if not any(returns[match])}

    def _numbers(self, replies: Sequence[str], score: float) -> Numbers:
        each = 1.0 if self.reward == "one" else score
        rewards = decayed(len(replies), self.decay) if self.reward == "shared" else [each] * len(replies)
        return {request: (reward, 1.0) for request, reward in zip(replies, rewards)}
