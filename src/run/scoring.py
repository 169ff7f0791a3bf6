"""Runs the scorer on the stored matches of a stage, in the stage `<stage>/score`.

Works for rounds of play and for evaluations. Credit and figures read the scores beside the game's own metrics. A
judge's verdicts are matches, too, stored in the same folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..data.episode import Episode
from ..data.scorer import Judge, ScoredMatches, Scores, judged, write_scores
from ..data.store import Matches
from ..play.pairing import self_play
from ..play.player import Sampling
from ..system import ranks
from .parts import plain
from .run import Run, of_each


class Scoring:
    """Applies the scorer of a run; without one, matches are unchanged and there are no figures."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def matches(self, name: str, source: Run | None = None) -> Matches:
        """The matches of the stage `name` (in the run `source`), with their scores if this run has a scorer."""
        played = (source or self.run).episodes(name)
        if self.run.parts.scorer is None:
            return played
        return ScoredMatches(played.folder, self.run.out / name / "score/scores.jsonl")

    def score(self, name: str, source: Run | None = None) -> dict[str, Any]:
        """Scores the matches of the stage `name`; returns the figures of each policy, {} without a scorer.

        `scored_rate` is the share of matches with a score; missing scores count in no other figure.
        """
        matches, scorer = self.matches(name, source), self.run.parts.scorer
        if scorer is None or not isinstance(matches, ScoredMatches):
            return {}
        inputs = {"scorer": plain(self.run.config.scorer), "seed": self.run.seed}
        if isinstance(scorer, Judge):
            inputs["players"] = self.run.versions([scorer.player], {})

        def work() -> dict[str, Any]:
            says = self._verdicts(scorer, matches, f"{name}/score") if isinstance(scorer, Judge) else scorer
            return ranks.shared(lambda: self._figures(matches, says))

        found: dict[str, Any] = self.run.stage(f"{name}/score", inputs, work)
        return found

    def _verdicts(self, judge: Judge, matches: Matches, name: str) -> Callable[[Episode], Scores]:
        """Plays the owed verdicts of the judge into the folder `name`; returns a function from matches to scores."""
        game = judge.game(matches)
        seatings = self_play(game, game.scenarios("train"), judge.player, self.run.seed, name, judge.repeats)
        verdicts = self.run.play(
            name, seatings, lambda played: dict(judge.scores(played)), Sampling(**judge.sampling), game=game
        )
        return lambda episode: verdicts.get(episode.id, {})

    def _figures(self, matches: ScoredMatches, says: Callable[[Episode], Scores]) -> dict[str, Any]:
        write_scores(matches.scores, says, matches)
        return of_each(judged(matches, alone=True), self.run.parts.policies)
