"""The task that judges stored matches, possibly with another judge."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

from omegaconf import DictConfig

from ...data.scorer import ScoredMatches
from ...report.agreement import rows
from ...report.progress import terminal
from ...report.table import figures_table
from ...run.build import running
from ...run.config import ConfigError
from ...run.contents import rounds_of, saved
from ...run.run import Run
from ...run.scoring import Scoring
from ...system import ranks
from ...system.files import replacing
from ..stored import same_game

RATINGS = "ratings.jsonl"


@ranks.collective
def judge(config: DictConfig, out: Path, run: str, stages: list[str]) -> float | None:
    """Scores stored matches of `run` with this command's scorer: those of `stages` (such as iter_001/play,
    iter_003/eval/sampled), or of every round. Verdicts are stored in this task's folder; the run's own scores stay.

    Writes `ratings.jsonl`, a row for each scored seat of a match, for task=agreement.
    """
    folder, typed = Path(run), deepcopy(config)
    saved(folder)
    named = stages or rounds_of(folder)
    if absent := [name for name in named if not (folder / name).is_dir()] or ([] if named else ["iter_*/play"]):
        raise ConfigError(f"task.stages: {run} has no matches in {', '.join(absent)}")
    if not config.scorer:
        raise ConfigError("task=judge needs a judge: say scorer=judge players.judge=NAME (opponents.NAME.model=…)")
    same_game(folder, config)
    if (name := config.players.pop("judge", None)) is not None:
        config.scorer.player = name
    config.imitate.matches, config.eval.opponents = 0, []
    with running(config, out, typed) as at_work:
        scoring, source = Scoring(at_work), Run(at_work.parts, folder, at_work.progress)
        told = {name: scoring.score(name, source) for name in named}
        rows = ranks.shared(lambda: _write(out, scoring, source, named, str(config.scorer.get("player", "scorer"))))
    for name, found in told.items():
        for policy, figures in found.items():
            if figures:
                terminal().print(figures_table(f"{name}, {policy}", figures))
    terminal().print(f"{rows} ratings in {out / RATINGS}", soft_wrap=True)
    return None


def _write(out: Path, scoring: Scoring, source: Run, names: list[str], rater: str) -> int:
    count = 0
    with replacing(out / RATINGS) as file:
        for name in names:
            matches = scoring.matches(name, source)
            assert isinstance(matches, ScoredMatches)
            for row in (row for each in matches.scored() for row in rows(each.episode, each.scores, rater)):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    return count
