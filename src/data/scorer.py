"""Scorers map an episode to named scores per seat. They can run again at any time and never change the episode.

A scorer is a function of an episode, or a judge, whose verdicts are matches of its own game.
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
"""name -> {seat: score}, or for a judge of single replies {request: score}. Missing scores are absent, not 0."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An episode with its scores."""

    episode: Episode
    scores: Scores


def judged(episodes: Iterable[Episode], alone: bool = False) -> Iterator[Episode]:
    """The episodes with scores added to the game's metrics (a game's metric wins over a score of the same name); with
    `alone` the scores replace the metrics. `scored_rate` is 1 if a match has a score, else 0. Matches without a scorer
    stay unchanged.

    For figures only: such an episode no longer equals its replay.
    """
    if not isinstance(episodes, ScoredMatches):
        yield from episodes
        return
    for each in episodes.scored():
        own = {} if alone else each.episode.result.metrics
        metrics = {**each.scores, "scored_rate": float(bool(each.scores)), **own}
        yield replace(each.episode, result=replace(each.episode.result, metrics=metrics))


class Scorer(Protocol):
    """Scores a finished match from its record."""

    def __call__(self, episode: Episode, /) -> Scores:
        """Returns named scores per seat."""


@runtime_checkable
class Judge(Protocol):
    """Scores matches by verdicts that the arena plays like any match, so that they are retried, billed and resumed
    alike.

    player    the judge: an opponent, or a script of the judge's game
    repeats   verdicts per match; sampling: fields of `Sampling` for the judge's replies
    """

    player: str
    repeats: int
    sampling: Mapping[str, Any]

    def game(self, matches: Iterable[Episode]) -> Game:
        """A game of one seat; each scenario of its split "train" asks for a verdict on one of `matches`."""

    def scores(self, verdicts: Iterable[Episode]) -> Mapping[str, Scores]:
        """Scores by the id of the judged match, from the verdicts, which are matches of that game."""


class RuleScorer:
    """Scores by the game's rules: `return`, and every metric (a metric of the whole match counts for each seat)."""

    def __call__(self, episode: Episode) -> Scores:
        """Name -> seat -> score of one match."""
        result, seats = episode.result, tuple(episode.result.returns)
        scores: dict[str, Mapping[str, float]] = {"return": dict(result.returns)}
        for name, value in result.metrics.items():
            scores[name] = dict(value) if isinstance(value, Mapping) else dict.fromkeys(seats, value)
        return scores


class ScoredMatches(Matches):
    """The stored matches of one stage, with their scores from the file `scores`."""

    def __init__(self, folder: str | Path, scores: str | Path) -> None:
        super().__init__(folder)
        self.scores = scores

    def scored(self) -> Iterator[Scored]:
        """Every match with its scores, as in `read_scored`."""
        verify(Path(self.scores).parent)
        return read_scored(self.scores, self)


def scored(matches: Iterable[Episode]) -> Iterator[Scored]:
    """Matches with their scores, or {} without a scorer."""
    if isinstance(matches, ScoredMatches):
        return matches.scored()
    return (Scored(each, {}) for each in matches)


def write_scores(path: str | Path, scorer: Scorer, episodes: Iterable[Episode]) -> None:
    """Scores `episodes`, sorted by match id, into one file, written atomically. InputError if none has a score."""
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
    """Each of `episodes`, sorted by match id, with its scores. ValueError if the two do not match."""
    scores = read_scores(path)
    for episode in episodes:
        match, found = next(scores, ("nothing", {}))
        if match != episode.id:
            raise ValueError(f"{path} has the scores of {match} where {episode.id} is stored: run the scorer again")
        yield Scored(episode, found)
    extra = next(scores, None)
    if extra is not None:
        raise ValueError(f"{path} has scores of {extra[0]}, which is not stored: run the scorer again")
