"""Filtered behaviour cloning's credit: keep the good logs."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import mean  # exact, so that equal scores have exactly their mean
from typing import Any, Literal, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample, decayed
from ..system.files import InputError
from .base import Credited, Log, Logs, Numbers, credited, logs
from .verdicts import Verdicts

Keep: TypeAlias = Literal["above_avg", "nonzero", "all", "above_group"]


@dataclass(frozen=True, slots=True)
class FilteredBC:
    """Filtered behaviour cloning: keep the logs whose score is strictly above a bar (lm-selfplay, arXiv:2406.18872).

    keep          above_avg: the mean over all logs of the round, zeros included; nonzero: 0; all: no bar;
                  above_group: the mean over the matches of one scenario, per seat (`play.group` matches each; a group
                  of equal scores keeps nothing)
    score         name of a metric, or of what a scorer says (`scorer=…`), that counts in place of the payoff
    normalise_by  name of a metric: scores become shares of it (0 where it is not positive), such as what the context
                  allowed (`ceiling` in Deal), so that a lucky context is not taken for skill
    margin        how far above the bar a score must be
    keep_draws    name of a metric, 1 where a match ended in a valid deal: with above_avg and nonzero, both logs of a
                  0-0 match with a valid deal are kept as well when every match of the round sums to zero. The published
                  rule for strict competition, where never dealing is worth as much as the mean, which is always 0.
    reward        of a kept reply, for losses that look at it: score (of its log), one (1, so that a kept log is never
                  held against its replies, whatever its score's sign), or shared (1 over the log, by `decayed` with
                  `decay`)
    mix           demonstrations that are mixed into each round as kind "sft", all of them where there are fewer

    Published, and kept here: the whole log is kept or left. Not kept: illegal replies are never trained on. A log whose
    score is missing (a judge gave no verdict) is left out, and counts in no mean.
    """

    keep: Keep = "above_avg"
    score: str | None = None
    normalise_by: str | None = None
    margin: float = 0.0
    keep_draws: str | None = "agreement_rate"
    reward: Literal["score", "one", "shared"] = "score"
    decay: float = 0.8
    mix: int = 0

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        self._check(found)
        bar, draws = self._bar(found), self._keeps_draws(found.episodes)
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            if (score := self._score(log)) is None:
                table.append(replace(log.verdict("no score"), score=None))
                continue
            least = bar(log)
            above, draw = least is None or score > least + self.margin, draws and self._drawn(log)
            replies = log.replies() if above or draw else []
            samples += log.samples(self._numbers(replies, score))
            why = "kept" if above else "kept as a valid draw" if draw else f"not above the bar ({self.keep})"
            why = "no legal reply of this policy" if (above or draw) and not replies else why
            table.append(log.verdict(why, bool(replies), score, least, replies))
        return credited(samples, table, demonstrations)

    def _score(self, log: Log) -> float | None:
        """What counts of a log; None where it is missing."""
        score = log.score if self.score is None else log.metric(self.score)
        if score is None or (isnan(score) and self.keep != "all"):
            return None
        if self.normalise_by is None:
            return score
        scale = log.metric(self.normalise_by)
        return None if scale is None else score / scale if scale > 0 else 0.0

    def _check(self, found: Logs) -> None:
        """InputError for a metric, or a payoff, that no log has."""
        if (
            self.score is None
            and self.keep != "all"
            and all(map(isnan, payoffs := [log.score for log in found]))
            and payoffs
        ):
            raise InputError("no log tells a payoff: say objective.credit.score=…, or keep=all")
        for option, name in (("score", self.score), ("normalise_by", self.normalise_by)):
            if name is None or any(log.metric(name) is not None for log in found):
                continue
            if (log := next(iter(found), None)) is not None:
                known = sorted({*log.episode.result.metrics, *log.scores})
                raise InputError(f"{option}={name!r}: match {log.episode.id} has no such metric; it has {known}")

    def _bar(self, found: Logs) -> Callable[[Log], float | None]:
        """What a log's score has to exceed."""
        if self.keep == "above_avg":
            scores = array("d", (score for log in found if (score := self._score(log)) is not None))
            average = mean(scores) if scores else 0.0
            return lambda log: average
        if self.keep == "above_group":
            groups: dict[tuple[str, str], array[float]] = defaultdict(lambda: array("d"))
            for log in found:
                if (score := self._score(log)) is not None:
                    groups[log.episode.scenario.id, log.seat].append(score)
            means = {group: mean(scores) for group, scores in groups.items()}
            return lambda log: means[log.episode.scenario.id, log.seat]
        if self.keep in ("nonzero", "all"):
            return lambda log: 0.0 if self.keep == "nonzero" else None
        raise ValueError(f"keep is {self.keep!r}, expected above_avg, nonzero, all or above_group")

    def _keeps_draws(self, episodes: Iterable[Episode]) -> bool:
        """Whether valid draws are kept: where every match of the round sums to zero."""
        asked = self.keep_draws is not None and self.keep in ("above_avg", "nonzero")
        return asked and all(abs(sum(episode.result.returns.values())) <= 1e-9 for episode in episodes)

    def _drawn(self, log: Log) -> bool:
        """Whether the match ended 0-0 with a valid deal."""
        result = log.episode.result
        return bool(self.keep_draws and result.metrics.get(self.keep_draws)) and not any(result.returns.values())

    def _numbers(self, replies: Sequence[str], score: float) -> Numbers:
        each = 1.0 if self.reward == "one" else score
        rewards = decayed(len(replies), self.decay) if self.reward == "shared" else [each] * len(replies)
        return {request: (reward, 1.0) for request, reward in zip(replies, rewards, strict=True)}
