"""Stored matches to rate and to compare: shown blind, in the judge's wording, and handed out evenly.

People and judge read the same text and rate on the same scales: a *case* is a case of the judge's own game. Nothing
shown names a model, a match or a stage.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ..data.episode import Episode
from ..data.judge import RubricJudge
from ..data.store import Matches
from ..games.base import Illegal
from ..games.verdict import Ratings, ratings
from ..report.agreement import Rating, identity
from ..system.files import InputError
from ..system.seeds import derive, rng
from .events import Events
from .plan import Work

Vote: TypeAlias = Literal["left", "right", "tie", "both_bad"]
VOTES: tuple[Vote, ...] = get_args(Vote)


@dataclass(frozen=True, slots=True)
class Held:
    """The location of a stored match that is shown under the opaque name `item`."""

    item: str
    match: str
    scenario: str
    source: Matches

    @property
    def episode(self) -> Episode:
        return self.source[self.match]


@dataclass(frozen=True, slots=True)
class Case:
    """A match as it is shown; `seats` maps each rated subject to its seat."""

    text: str
    seats: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two matches of one scenario."""

    item: str
    first: Held
    second: Held


def held(run: Path, stages: Iterable[str]) -> list[Held]:
    """The matches of these stages of a run, sorted by id within each stage."""
    found = []
    for stage in stages:
        source = Matches(run / stage)
        found += [Held(opaque(each.id), each.id, each.scenario.id, source) for each in source]
    return found


def opaque(text: str) -> str:
    """Hashes a name, so that it does not reveal the stage and the snapshot."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def shown(episode: Episode, judge: RubricJudge) -> Case:
    """Renders `episode` as the judge reads it."""
    data = judge.game([episode]).cases[0].data
    return Case(data["text"], data["seats"])


def pairs(first: Iterable[Held], second: Iterable[Held]) -> list[Pair]:
    """Pairs the matches of each scenario, one of each side, in the order of their ids."""
    waiting: dict[str, list[Held]] = defaultdict(list)
    for each in second:
        waiting[each.scenario].append(each)
    return [
        Pair(opaque(f"{one.match}\n{other.match}"), one, other)
        for one in first
        if waiting[one.scenario] and (other := waiting[one.scenario].pop(0))
    ]


def pick(
    items: Collection[str], work: Work, person: str, events: Events, each: int, abandon_s: float, seed: int
) -> str | None:
    """Chooses a person's next item: the one they have open, else one they have not done that fewer than `each` people
    did or hold. Of these it draws one with the fewest, by the seed. None if nothing is left.

    An item held for `abandon_s` seconds without an answer is free again.
    """
    mine = events.standings[person]
    if mine.open is not None and mine.open[0] == work and mine.open[1] in items:
        return mine.open[1]
    taken: Counter[str] = Counter()
    for name, other in events.standings.items():
        taken.update(other.rated if work == "rate" else other.voted)
        if name != person and other.open is not None and events.now() - other.since < abandon_s:
            taken[other.open[1]] += 1
    done = {*mine.rated, *mine.voted}
    free = [item for item in items if item not in done and taken[item] < each]
    chance = rng(seed, work, person, len(done))
    return min(free, key=lambda item: (taken[item], chance.random()), default=None)


def mirrored(person: str, number: int, seed: int) -> bool:
    """Whether this person's pair `number` is shown with the second match on the left. Exactly one of each two
    consecutive pairs is, by a fair coin derived from the seed and the person, so a reload shows the same."""
    return bool((derive(seed, "sides", person, number // 2) ^ number) & 1)


def scores(given: Any, case: Case, judge: RubricJudge) -> Ratings:
    """Converts {subject: {scale: number}} to scale -> {seat: number} and checks it against the judge's scales.
    InputError says what is wrong."""
    try:
        found = ratings(json.dumps(given), list(case.seats), judge.rubric.scales)
    except RecursionError:
        raise InputError("The ratings are nested too deeply.") from None
    if isinstance(found, Illegal):
        raise InputError(found.told)
    return {scale: {case.seats[name]: value for name, value in own.items()} for scale, own in found.items()}


class Reference:
    """Reference ratings that qualify people (Sotopia-π kept raters who were within 2 on each goal).

    ratings   reference ratings in the format of task=agreement; `scales` names those that count
    within    largest distance allowed between a score and the reference
    """

    def __init__(self, ratings: Sequence[Rating], scales: Sequence[str], within: float) -> None:
        self.scales, self.within = scales, within
        self._by_dialogue: dict[str, list[Rating]] = defaultdict(list)
        for each in ratings:
            self._by_dialogue[each.item[0]].append(each)

    def __contains__(self, episode: Episode) -> bool:
        return _dialogue(episode) in self._by_dialogue

    def near(self, episode: Episode, found: Ratings) -> bool:
        """Whether every score that counts is within `within` of every reference for its seat."""
        seats = list(episode.result.returns)
        return all(
            abs(found[scale][seats[int(each.item[1]) - 1]] - each.scores[scale]) <= self.within
            for each in self._by_dialogue[_dialogue(episode)]
            for scale in self.scales
            if scale in each.scores
        )


def _dialogue(episode: Episode) -> str:
    """The dialogue's id, the first part of an item in task=agreement."""
    return "/".join(identity(episode).values())
