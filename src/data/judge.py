"""Judges that rate the seats of stored matches, or their replies, by a rubric, by playing the game `verdict`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..games.base import Json, Scenario
from ..games.social.people import Task
from ..games.social.scene import story
from ..games.verdict import Ratings, Rubric, VerdictGame, case, rated
from .episode import Episode, Turn
from .formats.sotopia import actions
from .scorer import Scores


class RubricJudge:
    """Rates every seat that has a payoff on each of the scales; scores are named after the scales.

    player     the judge: a name of `opponents`, or a script of the game `verdict` (dice)
    task       the judge's instructions (the system message)
    scales     name -> {low, high, says}
    overall    whether to add the mean of all scales as a score
    schematic  whether verdicts follow a JSON schema, if the judge's backend can enforce one
    scenario   whether the judge reads the scenario's data, as JSON, before the dialogue. Of Sotopia's episodes it
               always reads the characters' names and everybody's knowledge
    swapped    whether to judge each match a second time with the seats in reverse order, for comparing rubrics: a judge
               may prefer the first seat
    repeats    verdicts per match (and order), which are averaged; retries: further attempts at a verdict
    sampling   of the judge's replies
    """

    def __init__(
        self,
        player: str,
        task: str,
        scales: Mapping[str, Mapping[str, Any]],
        overall: bool = False,
        schematic: bool = True,
        scenario: bool = False,
        swapped: bool = False,
        repeats: int = 1,
        retries: int = 1,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.player, self.scenario, self.swapped = player, scenario, swapped
        self.repeats, self.retries = repeats, retries
        self.rubric = Rubric.of(task, scales, overall, schematic)
        self.sampling = dict(sampling or {})

    def game(self, matches: Iterable[Episode]) -> VerdictGame:
        """The game whose scenarios ask for a verdict on each of `matches`."""
        return VerdictGame([each for episode in matches for each in self._cases(episode)], self.rubric, self.retries)

    def scores(self, verdicts: Iterable[Episode]) -> dict[str, Scores]:
        """The mean of the verdicts on each match, by match id. Matches without a verdict are missing."""
        given: dict[str, list[Ratings]] = defaultdict(list)
        for each in verdicts:
            if (found := rated(each.result)) is not None:
                seats = each.scenario.data.get("seats", {})
                by_seat = {scale: {seats.get(name, name): x for name, x in own.items()} for scale, own in found.items()}
                given[each.scenario.data["match"]].append(by_seat)
        return {match: _mean(found) for match, found in given.items()}

    def _cases(self, episode: Episode) -> Iterator[Scenario]:
        """One case for each order of the seats."""
        seats = names(episode)
        yield from self._orders(episode, self.text(episode), [*seats], {"match": episode.id, "seats": seats})

    def _orders(
        self, episode: Episode, said: str, subjects: Sequence[str], data: Mapping[str, Json]
    ) -> Iterator[Scenario]:
        if self.scenario:
            said = f"{json.dumps(episode.scenario.data, ensure_ascii=False)}\n\n{said}"
        name = episode.id.replace("/", "|")  # a scenario's id is part of its match's id
        cluster = episode.scenario.cluster
        yield case(name, said, subjects, cluster, **data)
        if self.swapped:
            yield case(f"{name}|swapped", said, subjects[::-1], cluster, **data)

    def text(self, episode: Episode) -> str:
        """The text for the judge: the legal replies, line by line; for Sotopia's episodes the text of Sotopia's
        judge."""
        if episode.game == "social":
            return story(
                Task.from_json(episode.scenario.data), [{line.place: line.action} for line in actions(episode)]
            )
        refused = frozenset[str]().union(*(episode.refused(seat) for seat in episode.players))
        return "\n".join(f"{turn.seat}: {turn.text}" for turn in episode.turns if turn.request not in refused)


class TurnJudge(RubricJudge):
    """Rates every legal reply of the seats that have a payoff, by its contribution (attribution; Sotopia-RL,
    arXiv:2508.03905). Scores are per request, name -> {request: number}, like a game's marks; `Advantage.turn_reward`
    reads them. With `swapped` the replies are listed in reverse order.
    """

    def _cases(self, episode: Episode) -> Iterator[Scenario]:
        asked = {f"#{number}": turn for number, turn in enumerate(_legal(episode), 1)}
        calls = {seat: name for name, seat in names(episode).items()}
        said = "\n".join(f"{number} {calls[turn.seat]}: {turn.text}" for number, turn in asked.items())
        data = {"match": episode.id, "seats": {number: turn.request for number, turn in asked.items()}}
        if asked:
            yield from self._orders(episode, said, [*asked], data)


def names(episode: Episode) -> dict[str, str]:
    """Maps the judge's name of each seat that has a payoff to the seat."""
    seats = [*episode.result.returns]
    if episode.game == "social":
        return dict(zip(Task.from_json(episode.scenario.data).names, seats, strict=True))
    return {seat: seat for seat in seats}


def _legal(episode: Episode) -> list[Turn]:
    """The legal replies of the seats that have a payoff, without answers to probes."""
    refused = frozenset[str]().union(*(episode.refused(seat) for seat in episode.result.returns))
    return [
        turn
        for turn in episode.turns
        if turn.seat in episode.result.returns and turn.kind != "probe" and turn.request not in refused
    ]


def _mean(found: list[Ratings]) -> Scores:
    return {
        scale: {subject: sum(each[scale][subject] for each in found) / len(found) for subject in ratings}
        for scale, ratings in found[0].items()
    }
