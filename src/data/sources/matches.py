"""Matches stored by other runs, for imitation or offline learning (credit selects).

A stored run is untrusted data. Only its records are read, and checked against their stages' seals; nothing is built
from its config. This run's game replays each match to recover the players' views.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...games.base import Game, Json
from ...system.files import InputError
from ..consent import HUMAN, people, trainable
from ..episode import Episode
from ..imported import VERSION
from ..replay import replay
from ..sample import Demonstration, chosen
from ..scorer import Scored, ScoredMatches, scored
from ..seal import SCORES, manifest, rounds
from ..store import Matches

HELD, WITHOUT, OTHER = "held out", "without consent to training", "not as data.where says"
NOBODY = "with nobody to learn from"


@dataclass(frozen=True)
class StoredMatches:
    """A data source: the matches of `runs`, whose game is the game of this run.

    runs      their folders
    stages    stages to read, such as iter_001/play; empty: every finished round of self-play
    scores    folders of task=judge, one for each of `runs`, whose scores replace the run's own
    players   players to learn from, human for every person; empty: every model and every person
    where     required values: {outcome: deal}, or of the episode's extra fields {consent: {version: 2}}; a list allows
              any of its values
    held_out  treatment of matches on held-out scenarios: refuse (InputError), or leave_out

    Only the text of a reply is used; the learning model tokenizes it. Matches of people who did not agree to training
    are left out (`data.consent`). InputError for a folder without the named stages or scores.
    """

    runs: Sequence[str]
    stages: Sequence[str] = ()
    scores: Sequence[str] = ()
    players: Sequence[str] = ()
    where: Mapping[str, Json] | None = None
    held_out: Literal["refuse", "leave_out"] = "refuse"

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("data.runs is empty: name the runs to learn from, as data.runs=[RUN]")
        if self.scores and len(self.scores) != len(self.runs):
            raise InputError(
                f"data.scores names {len(self.scores)} folders for {len(self.runs)} runs: say one for each"
            )
        if self.held_out not in ("refuse", "leave_out"):
            raise InputError(f"data.held_out={self.held_out!r}, expected refuse or leave_out")
        for run in self.runs:
            if not self._stages(run):
                raise InputError(f"data.runs: {run} has no finished round of self-play: make one with task=play")
        for _, folder, scores in self._places():
            if manifest(folder) is None:
                raise InputError(f"data.stages: {folder} is no finished stage")
            if scores is not None and not scores.exists():
                raise InputError(f"data.scores: there is no {scores}")

    @property
    def files(self) -> dict[str, str]:
        """The paths it reads: folders of stages, and files of scores."""
        paths = [str(path) for _, *paths in self._places() for path in paths if path is not None]
        return dict(zip(paths, paths, strict=True))

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """For the split train: the whole view of every player to learn from, with its legal replies to imitate; empty
        ones are not."""
        for episode in self.recorded(game, "learner") if split == "train" else ():
            views = replay(game, episode).views
            for seat in (seat for seat in views if episode.policies[seat]):
                legal = {turn.request for turn in episode.own if turn.seat == seat} - episode.refused(seat)
                demo = chosen(f"{episode.id}/{seat}", views[seat], legal, episode.scenario.cluster)
                if any(demo.weights):
                    yield demo

    def recorded(self, game: Game, player: str) -> Matches:
        """The matches with their scores, sorted by id, with `player` in every seat to learn from.

        InputError if a match is on a held-out scenario (unless these are left out), and if none is left.
        """
        held = _held_out(game)
        count = Counter(self._fault(each, held) for _, matches in self._stored() for each in matches)
        taken, left_out = count.pop(None, 0), ", ".join(f"{many} {why}" for why, many in count.most_common())
        if count[HELD] and self.held_out == "refuse":
            raise InputError(
                f"{count[HELD]} matches in data.runs are on scenarios that {game.name} holds out for evaluation: say "
                "data.stages=[…] without them, or data.held_out=leave_out"
            )
        if not taken:
            raise InputError(f"no match of data.runs is left to learn from: {left_out or 'none is stored'}")
        if left_out:
            warnings.warn(
                f"data.runs: {count.total()} of {count.total() + taken} matches are left out ({left_out})", stacklevel=2
            )
        return _Gathered(
            self._stored(), lambda each: self._fault(each, held) is None, lambda each: self._seen(each, player)
        )

    def _fault(self, episode: Episode, held: Container[str]) -> str | None:
        """The reason to leave out a match, or None."""
        if episode.scenario.cluster in held:
            return HELD
        record = {**episode.extra, "outcome": episode.result.outcome}
        if not meets(record, dict(self.where or {})):
            return OTHER
        if not trainable(episode):
            return WITHOUT
        return None if self._learned(episode) else NOBODY

    def _learned(self, episode: Episode) -> set[str]:
        """The seats to learn from."""
        if self.players:
            persons = people(episode) if HUMAN in self.players else set()
            return persons | {seat for seat, name in episode.players.items() if name in self.players}
        return people(episode) | {seat for seat, version in episode.policies.items() if version}

    def _seen(self, episode: Episode, player: str) -> Episode:
        """The match with `player` in every seat to learn from and no policy elsewhere, without token ids, which belong
        to another model."""
        seats = self._learned(episode)
        players = {seat: player if seat in seats else name for seat, name in episode.players.items()}
        policies = {seat: VERSION if seat in seats else "" for seat in episode.players}
        turns = tuple(replace(turn, call=None) for turn in episode.turns)
        return replace(episode, players=players, policies=policies, turns=turns)

    def _stages(self, run: str) -> list[str]:
        return sorted(self.stages) or rounds(Path(run))

    def _places(self) -> Iterator[tuple[str, Path, Path | None]]:
        """(prefix of match ids, folder, scores) of each stage; the prefix separates equal ids of two runs."""
        for number, (run, judged) in enumerate(zip(self.runs, self.scores or self.runs, strict=True)):
            for stage in self._stages(run):
                scores = Path(judged) / stage / "score" / SCORES
                found = scores if self.scores or scores.exists() else None
                yield f"matches/{number:03d}/", Path(run) / stage, found

    def _stored(self) -> list[tuple[str, Matches]]:
        return [
            (prefix, Matches(folder) if scores is None else ScoredMatches(folder, scores))
            for prefix, folder, scores in self._places()
        ]


class _Gathered(ScoredMatches):
    """The `wanted` matches of several stages, mapped by `seen`, with their prefixes."""

    def __init__(
        self,
        stages: Sequence[tuple[str, Matches]],
        wanted: Callable[[Episode], bool],
        seen: Callable[[Episode], Episode],
    ) -> None:
        self._stages, self._wanted, self._seen = stages, wanted, seen

    def scored(self) -> Iterator[Scored]:
        for prefix, matches in self._stages:
            for each in scored(matches):
                if self._wanted(each.episode):
                    yield Scored(self._named(prefix, each.episode), each.scores)

    def __iter__(self) -> Iterator[Episode]:
        return (each.episode for each in self.scored())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, match: object) -> bool:
        return isinstance(match, str) and self._found(match) is not None

    def __getitem__(self, match: str) -> Episode:
        if (found := self._found(match)) is None:
            raise KeyError(match)
        return found

    def _found(self, match: str) -> Episode | None:
        for prefix, matches in self._stages:
            with suppress(KeyError):
                if match.startswith(prefix) and self._wanted(episode := matches[match.removeprefix(prefix)]):
                    return self._named(prefix, episode)
        return None

    def _named(self, prefix: str, episode: Episode) -> Episode:
        return replace(self._seen(episode), id=f"{prefix}{episode.id}")


def meets(value: Json, wanted: Json) -> bool:
    """Whether a value matches: a mapping compares its keys, a list allows any of its values."""
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(meets(value.get(key), each) for key, each in wanted.items())
    return value in wanted if isinstance(wanted, list | tuple) else value == wanted


def _held_out(game: Game) -> set[str]:
    """The clusters of the game's held-out scenarios, used for evaluation only."""
    held: set[str] = set()
    for split in ("validation", "test"):
        with suppress(ValueError):  # a game without such scenarios
            held |= {scenario.cluster for scenario in game.scenarios(split)}
    return held - {scenario.cluster for scenario in game.scenarios("train")}
