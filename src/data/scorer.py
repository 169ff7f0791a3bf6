"""Scorers: an episode in, named scores per seat out. They can be run again at any time and never touch the episode.

A scorer is a function of an episode, or a judge, whose verdicts are matches of a game of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..games.base import Game
from ..system.files import InputError, read_jsonl, replacing
from .episode import Episode
from .seal import verify
from .store import Matches

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""name -> {seat: score}, or of a judge of single replies {request: score}. A score that is missing is not there; it is
never 0."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An episode with its scores."""

    episode: Episode
    scores: Scores


def judged(episodes: Iterable[Episode], alone: bool = False) -> Iterator[Episode]:
    """The episodes with their scores beside the game's metrics, which come first; with `alone` the scores in place of
    the metrics. `scored_rate` is 1 where a match has a score, else 0. Matches without a scorer stay as they are.

    For figures only: such an episode no longer says what its replay says.
    """
    if not isinstance(episodes, ScoredMatches):
        yield from episodes
        return
    for each in episodes.scored():
        own = {} if alone else each.episode.result.metrics
        metrics = {**each.scores, "scored_rate": float(bool(each.scores)), **own}
        yield replace(each.episode, result=replace(each.episode.result, metrics=metrics))


class Scorer(Protocol):
    """Scores a finished match by looking at its record."""

    def __call__(self, episode: Episode, /) -> Scores:
        """Named scores for each seat."""


@runtime_checkable
class Judge(Protocol):
    """Scores matches by having verdicts on them played: by the arena, as any match is, so that they are retried, paid
    for and resumed alike.

    player    who gives the verdicts: an opponent, or a script of the judge's game
    repeats   verdicts on each match; sampling: of the judge's replies, as `Sampling` takes it
    """

    player: str
    repeats: int
    sampling: Mapping[str, Any]

    def game(self, matches: Iterable[Episode]) -> Game:
        """A game of one seat; each scenario of its split "train" asks for a verdict on one of `matches`."""

    def scores(self, verdicts: Iterable[Episode]) -> Mapping[str, Scores]:
        """What the verdicts, matches of that game, say: by the id of the match that was judged."""


class RuleScorer:
    """What the game's own rules say: `return`, and every metric (one for the whole match counts for each seat)."""

    def __call__(self, episode: Episode) -> Scores:
        result, seats = episode.result, tuple(episode.result.returns)
        scores: dict[str, Mapping[str, float]] = {"return": dict(result.returns)}
        for name, value in result.metrics.items():
            scores[name] = dict(value) if isinstance(value, Mapping) else dict.fromkeys(seats, value)
        return scores


class ScoredMatches(Matches):
    """The stored matches of one stage, with the scores that the file `scores` has of them."""

    def __init__(self, folder: str | Path, scores: str | Path) -> None:
        super().__init__(folder)
        self.scores = scores

    def scored(self) -> Iterator[Scored]:
        """Every match with its scores, as `read_scored` gives them."""
        verify(Path(self.scores).parent)
        return read_scored(self.scores, self)


def scored(matches: Iterable[Episode]) -> Iterator[Scored]:
    """Matches with their scores, {} where there is no scorer."""
    if isinstance(matches, ScoredMatches):
        return matches.scored()
    return (Scored(each, {}) for each in matches)


def write_scores(path: str | Path, scorer: Scorer, episodes: Iterable[Episode]) -> None:
    """Scores `episodes`, which are sorted by match id, into one file (whole or not at all). InputError where none of
    them has a score."""
    matches = missing = 0
    with replacing(path) as file:
        for episode in episodes:
            row = {"id": episode.id, "scores": scorer(episode)}
            matches, missing = matches + 1, missing + (not row["scores"])
            file.write(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n")
        if missing == matches > 0:
            raise InputError(f"the scorer gave no score to any of the {matches} matches: nothing to write to {path}")


def read_scores(path: str | Path) -> Iterator[tuple[str, Scores]]:
    """(match id, scores), sorted by match id. ValueError names file and line."""
    return read_jsonl(path, lambda row: (row["id"], row["scores"]))


def read_scored(path: str | Path, episodes: Iterable[Episode]) -> Iterator[Scored]:
    """Every one of `episodes`, which are sorted by match id, with its scores. ValueError when the two do not belong
    together."""
    scores = read_scores(path)
    for episode in episodes:
        match, found = next(scores, ("nothing", {}))
        if match != episode.id:
            raise ValueError(f"{path} has the scores of {match} where {episode.id} is stored: run the scorer again")
        yield Scored(episode, found)
    extra = next(scores, None)
    if extra is not None:
        raise ValueError(f"{path} has scores of {extra[0]}, which is not stored: run the scorer again")
