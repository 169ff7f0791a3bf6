"""What is rated and what is compared: stored matches, shown as the judge reads them, blind, handed out evenly.

People and judge read the same words and rate on the same scales: a *case* here is a case of the judge's own game.
Nothing that is shown names a model, a match or a stage.
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
    """Where a match lies that may be shown as `item`."""

    item: str
    match: str
    scenario: str
    source: Matches

    @property
    def episode(self) -> Episode:
        return self.source[self.match]


@dataclass(frozen=True, slots=True)
class Case:
    """A match as it is shown; `seats`: what is rated -> its seat."""

    text: str
    seats: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two matches of one scenario."""

    item: str
    first: Held
    second: Held


def held(run: Path, stages: Iterable[str]) -> list[Held]:
    """The matches of these stages of a run, sorted by their ids in each."""
    found = []
    for stage in stages:
        source = Matches(run / stage)
        found += [Held(opaque(each.id), each.id, each.scenario.id, source) for each in source]
    return found


def opaque(text: str) -> str:
    """A name that does not tell the stage, and so the snapshot, behind it."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def shown(episode: Episode, judge: RubricJudge) -> Case:
    """`episode` as the judge reads it."""
    data = judge.game([episode]).cases[0].data
    return Case(data["text"], data["seats"])


def pairs(first: Iterable[Held], second: Iterable[Held]) -> list[Pair]:
    """The matches of each scenario, one of each side at a time, in the order of their ids."""
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
    """What a person does next: what it has open, else an item that it has not done and that fewer than `each` people
    did or hold, of these one of the fewest, drawn by the seed. None where nothing is left.

    An item that somebody holds for `abandon_s` seconds is free again.
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
    """Whether this person sees the second match of its pair `number` on the left: of each two pairs one, which of them
    is a fair coin's to say. The same at each reload."""
    return bool((derive(seed, "sides", person, number // 2) ^ number) & 1)


def scores(given: Any, case: Case, judge: RubricJudge) -> Ratings:
    """{subject: {scale: number}} as scale -> {seat: number}, held to the judge's scales. InputError says what is
    wrong."""
    try:
        found = ratings(json.dumps(given), list(case.seats), judge.rubric.scales)
    except RecursionError:
        raise InputError("The ratings are nested too deeply.") from None
    if isinstance(found, Illegal):
        raise InputError(found.told)
    return {scale: {case.seats[name]: value for name, value in own.items()} for scale, own in found.items()}


class Reference:
    """Reference ratings, by which people qualify: Sotopia-π kept who rated each goal within 2.

    ratings   what is held to be right, as task=agreement reads it; scales: which of it counts
    within    how far a score may be off
    """

    def __init__(self, ratings: Sequence[Rating], scales: Sequence[str], within: float) -> None:
        self.scales, self.within = scales, within
        self._by_dialogue: dict[str, list[Rating]] = defaultdict(list)
        for each in ratings:
            self._by_dialogue[each.item[0]].append(each)

    def __contains__(self, episode: Episode) -> bool:
        return _dialogue(episode) in self._by_dialogue

    def near(self, episode: Episode, found: Ratings) -> bool:
        """Whether every score that counts is near enough to every reference of its seat."""
        seats = list(episode.result.returns)
        return all(
            abs(found[scale][seats[int(each.item[1]) - 1]] - each.scores[scale]) <= self.within
            for each in self._by_dialogue[_dialogue(episode)]
            for scale in self.scales
            if scale in each.scores
        )


def _dialogue(episode: Episode) -> str:
    """The first part of an item, as task=agreement makes it of a row."""
    return "/".join(identity(episode).values())
