"""The task that tells figures of logs which another program left."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from ...data.formats import lm_selfplay
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
