"""Filtered behaviour cloning's credit: keep the good logs."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from statistics import mean  # exact, so that the mean of equal scores equals them
from typing import Any, ClassVar, Literal, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample, decayed
from ..system.bounds import Share
from ..system.files import InputError
from .base import Credited, Log, Logs, Numbers, credited, logs
from .ranking import Ranked, balanced, best, top
from .verdicts import Verdicts

Keep: TypeAlias = Literal["above_avg", "nonzero", "all", "above_group", "best", "at_least", "top"]


CHOSEN = ("best", "top")  # rules that rank logs instead of comparing with a bar


@dataclass(frozen=True, slots=True)
class FilteredBC:
    """Filtered behaviour cloning: keep the logs whose score is strictly above a bar (lm-selfplay, arXiv:2406.18872),
    or the best of them (Sotopia-π, arXiv:2403.08715).

    keep          above_avg: the mean over all logs of the round, zeros included; nonzero: 0; all: no bar;
                  above_group: the mean over the matches of one group, per seat (`play.group` matches each; a group of
                  equal scores keeps nothing); best: the one best log of each group and seat, ties broken by `then`,
                  then by match id; at_least: a score of `least` or more; top: the best share `share` of all logs
    group         what a group is: the matches of one scenario, or of one cluster of scenarios
    then          name of a metric or score that breaks ties, for best and top
    least, partner   with at_least: the lowest score for the log, and for every other seat of its match (None: any)
    balance       keeps equally many logs of each seat, the best ones
    score         name of a metric or of a scorer's score (`scorer=…`) to use instead of the payoff
    normalise_by  name of a metric that scores are divided by (0 where it is not positive), such as the best possible
                  score of the context (`ceiling` in Deal), so that a lucky context does not count as skill
    margin        minimum distance of a score above the bar
    keep_draws    name of a metric, 1 where a match ended in a valid deal: with above_avg and nonzero, both logs of a
                  0-0 match with a valid deal are kept as well when every match of the round sums to zero. This is the
                  published rule for strict competition, where the mean is always 0.
    reward        reward of a kept reply, for losses that use it: score (of its log), one (1, so that a kept log with a
                  negative score is still reinforced), or shared (1 spread over the log, by `decayed` with `decay`)
    mix           number of demonstrations mixed into each round as kind "sft" (all of them if there are fewer)

    As published, a log is kept or dropped whole. Unlike the published code, illegal replies are never trained on. A log
    without a score (a judge gave no verdict) is left out, and counts in no mean.
    """

    keep: Keep = "above_avg"
    group: Literal["scenario", "cluster"] = "scenario"
    then: str | None = None
    least: float = 0.0
    partner: float | None = None
    share: Share = 0.7
    balance: bool = False
    score: str | None = None
    normalise_by: str | None = None
    margin: float = 0.0
    keep_draws: str | None = "agreement_rate"
    reward: Literal["score", "one", "shared"] = "score"
    decay: float = 0.8
    mix: int = 0
    imitates: ClassVar[bool] = True  # the kept logs are worth imitating, whichever policy played them

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        self._check(found)
        bar, draws = self._bar(found), self._keeps_draws(found.episodes)
        chosen = self._chosen(found, bar) if self.balance or self.keep in CHOSEN else None
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            if (score := self._score(log)) is None:
                table.append(replace(log.verdict("no score"), score=None))
                continue
            least = bar(log)
            above = self._above(log, score, least) if chosen is None else (log.episode.id, log.seat) in chosen
            draw = draws and self._drawn(log)
            replies = log.replies() if above or draw else []
            samples += log.samples(self._numbers(replies, score))
            why = "kept" if above else "kept as a valid draw" if draw else f"not above the bar ({self.keep})"
            why = "no legal reply of this policy" if (above or draw) and not replies else why
            table.append(log.verdict(why, bool(replies), score, least, replies))
        return credited(samples, table, demonstrations)

    def _above(self, log: Log, score: float, least: float | None) -> bool:
        """Whether a log passes its bar."""
        if self.keep != "at_least":
            return least is None or score > least + self.margin
        others = [self._score(replace(log, seat=seat)) for seat in log.episode.result.returns if seat != log.seat]
        partners = self.partner is None or all(each is not None and each >= self.partner for each in others)
        return score >= self.least and partners

    def _chosen(self, found: Logs, bar: Callable[[Log], float | None]) -> set[tuple[str, str]]:
        """The (match, seat) of the logs kept by rank."""
        ranked = sorted(
            Ranked(-score, -self._tie(log), log.episode.id, log.seat, self._group(log))
            for log in found
            if (score := self._score(log)) is not None and (self.keep in CHOSEN or self._above(log, score, bar(log)))
        )
        if self.keep in CHOSEN:
            ranked = best(ranked) if self.keep == "best" else top(ranked, self.share)
        return {(each.match, each.seat) for each in (balanced(ranked) if self.balance else ranked)}

    def _tie(self, log: Log) -> float:
        """The tie breaker of logs of equal score; a missing one comes last."""
        value = None if self.then is None else log.metric(self.then)
        return -inf if value is None else value

    def _group(self, log: Log) -> str:
        scenario = log.episode.scenario
        return scenario.id if self.group == "scenario" else scenario.cluster

    def _score(self, log: Log) -> float | None:
        """The score of a log; None if it is missing."""
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
            raise InputError("no log has a payoff: say objective.credit.score=…, or keep=all")
        for option, name in (("score", self.score), ("normalise_by", self.normalise_by), ("then", self.then)):
            if name is None or any(log.metric(name) is not None for log in found):
                continue
            if (log := next(iter(found), None)) is not None:
                known = sorted({*log.episode.result.metrics, *log.scores})
                raise InputError(f"{option}={name!r}: match {log.episode.id} has no such metric; it has {known}")

    def _bar(self, found: Logs) -> Callable[[Log], float | None]:
        """Maps a log to the bar that its score must exceed."""
        if self.keep == "above_avg":
            scores = array("d", (score for log in found if (score := self._score(log)) is not None))
            average = mean(scores) if scores else 0.0
            return lambda log: average
        if self.keep == "above_group":
            groups: dict[tuple[str, str], array[float]] = defaultdict(lambda: array("d"))
            for log in found:
                if (score := self._score(log)) is not None:
                    groups[self._group(log), log.seat].append(score)
            means = {group: mean(scores) for group, scores in groups.items()}
            return lambda log: means[self._group(log), log.seat]
        bars = {"nonzero": 0.0, "at_least": self.least, "all": None, "best": None, "top": None}
        if self.keep not in bars:
            raise ValueError(f"keep is {self.keep!r}, expected above_avg, above_group, {', '.join(bars)}")
        return lambda log: bars[self.keep]

    def _keeps_draws(self, episodes: Iterable[Episode]) -> bool:
        """Whether valid draws are kept: if every match of the round sums to zero."""
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
