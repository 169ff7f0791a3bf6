"""Scoring: what the scorer says of the stored matches of a stage, in the stage `<stage>/score`.

A round of play and an evaluation are scored alike. Credit and figures read the scores beside the game's own metrics.
"""

from __future__ import annotations

from typing import Any

from ..data.scorer import ScoredMatches, judged, write_scores
from ..data.store import Matches
from .parts import plain
from .run import Run, of_each


class Scoring:
    """The scorer of a run at work; without one it gives the matches as they are, and no figures."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def matches(self, name: str, source: Run | None = None) -> Matches:
        """The matches of the stage `name` (in the run of `source`), with their scores where this run has a scorer."""
        played = (source or self.run).episodes(name)
        if self.run.parts.scorer is None:
            return played
        return ScoredMatches(played.folder, self.run.out / name / "score/scores.jsonl")

    def score(self, name: str, source: Run | None = None) -> dict[str, Any]:
        """Scores the matches of the stage `name`; returns the figures of each policy, {} without a scorer."""
        matches, scorer = self.matches(name, source), self.run.parts.scorer
        if scorer is None or not isinstance(matches, ScoredMatches):
            return {}

        def make() -> dict[str, Any]:
            write_scores(matches.scores, scorer, matches)
            return of_each(judged(matches, alone=True), self.run.parts.policies)

        inputs = {"scorer": plain(self.run.config.scorer), "seed": self.run.seed}
        found: dict[str, Any] = self.run.stage(f"{name}/score", inputs, alone=make)
        return found
