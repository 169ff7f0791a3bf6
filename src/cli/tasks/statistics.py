"""Tasks that compute figures from files: logs of another program, and ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from ...data.formats import lm_selfplay
from ...report import agreement as agreeing
from ...report import selfplay
from ...report.progress import terminal
from ...run.config import ConfigError
from ...system.files import InputError, write_text


def statistics(
    config: DictConfig, out: Path, runs: list[str], objective: Literal["self", "coop", "comp"]
) -> float | None:
    """Figures of folders of lm-selfplay's logs, one for each iteration, as a table here and as `statistics.csv`."""
    if not runs:
        raise ConfigError("runs: name the folders of logs, in the order of the iterations: runs=[a,b]")
    try:
        rows = {name: selfplay.figures(list(lm_selfplay.read(Path(name))), objective) for name in runs}
    except InputError as error:
        raise ConfigError(f"runs: {error}") from error
    write_text(out / "statistics.csv", selfplay.as_csv(rows))
    terminal().print(selfplay.as_table(rows))
    return None


def agreement(config: DictConfig, out: Path, ratings: list[str], judges: list[str]) -> float | None:
    """The agreement among the raters of `ratings`, and of each of `judges` (some of the raters) with the people, as
    tables here and as `agreement.csv` and `judges.csv`."""
    if not ratings:
        raise ConfigError("ratings: name the files, a rating in each line: ratings=[people.jsonl,judge.jsonl]")
    try:
        found = agreeing.read(ratings)
    except (InputError, FileNotFoundError) as error:
        raise ConfigError(f"ratings: {error}") from error
    raters = dict.fromkeys(each.rater for each in found)
    if strangers := [name for name in judges if name not in raters]:
        raise ConfigError(f"task.judges: nobody of {', '.join(raters)} is {strangers[0]}")
    people, against = agreeing.people(found, judges, config.seed), agreeing.against(found, judges)
    write_text(out / "agreement.csv", agreeing.as_csv(people))
    terminal().print(agreeing.as_table("people", people))
    if judges:
        write_text(out / "judges.csv", agreeing.as_csv(against))
        terminal().print(agreeing.as_table("judges, against the people", against))
    return None
