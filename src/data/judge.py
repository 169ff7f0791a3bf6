"""A judge that rates the seats of stored matches by a rubric, by playing the game `verdict`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ..games.base import Scenario
from ..games.verdict import Ratings, Rubric, VerdictGame, case, rated
from .episode import Episode
from .scorer import Scores


class RubricJudge:
    """Rates every seat that has a payoff, on each of the scales; the scores are named as these are.

    player     who judges: a name of `opponents`, or a script of the game `verdict` (dice)
    task       what the judge is told to do (the system message)
    scales     name -> {low, high, says}
    overall    whether the mean of all scales is a score, too
    scenario   whether the judge is shown the scenario's data, as JSON, before the words that were said
    repeats    verdicts on each match, of which the mean is taken; retries: further attempts at one verdict
    sampling   of the judge's replies
    """

    def __init__(
        self,
        player: str,
        task: str,
        scales: Mapping[str, Mapping[str, Any]],
        overall: bool = False,
        scenario: bool = False,
        repeats: int = 1,
        retries: int = 1,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.player, self.scenario, self.repeats, self.retries = player, scenario, repeats, retries
        self.rubric = Rubric.of(task, scales, overall)
        self.sampling = dict(sampling or {})

    def game(self, matches: Iterable[Episode]) -> VerdictGame:
        """The game in which a verdict is given on each of `matches`."""
        return VerdictGame([self._case(episode) for episode in matches], self.rubric, self.retries)

    def scores(self, verdicts: Iterable[Episode]) -> dict[str, Scores]:
        """The mean of the verdicts on each match, by its id. A match without any is missing."""
        given: dict[str, list[Ratings]] = defaultdict(list)
        for each in verdicts:
            if (found := rated(each.result)) is not None:
                given[each.scenario.data["match"]].append(found)
        return {match: _mean(found) for match, found in given.items()}

    def _case(self, episode: Episode) -> Scenario:
        said = self.text(episode)
        if self.scenario:
            said = f"{json.dumps(episode.scenario.data, ensure_ascii=False)}\n\n{said}"
        name = episode.id.replace("/", "|")  # a scenario's id is a part of its match's id
        return case(name, said, [*episode.result.returns], episode.scenario.cluster, match=episode.id)

    def text(self, episode: Episode) -> str:
        """What the judge reads: the words that counted, line by line."""
        refused = frozenset[str]().union(*(episode.refused(seat) for seat in episode.players))
        return "\n".join(f"{turn.seat}: {turn.text}" for turn in episode.turns if turn.request not in refused)


def _mean(found: list[Ratings]) -> Scores:
    return {
        scale: {subject: sum(each[scale][subject] for each in found) / len(found) for subject in ratings}
        for scale, ratings in found[0].items()
    }
