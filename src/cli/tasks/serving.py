"""The task that serves a run to people, in the browser."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...report.progress import Progress, terminal
from ...run.build import build
from ...run.config import ConfigError
from ...run.run import Run
from ...system.files import lock
from ...table.part import Desk
from ...table.persons import Persons
from ...table.server import Serving, serve
from ..stored import same_game

FOLDER = "table"


def table(config: DictConfig, out: Path, run: str | None) -> float | None:
    """Serves `run` until it is stopped, with the game, policies, opponents and players of `config`, which is composed
    from it. Everything is written below `<run>/table/`."""
    if run is None:
        raise ConfigError("task=table needs a run: name it with run=…")
    if config.hardware.devices * config.hardware.nodes > 1:
        raise ConfigError("task=table works in one process: choose a hardware profile with one device")
    folder = Path(run) / FOLDER
    same_game(Path(run), config)
    serving: Serving = instantiate(config.table, _convert_="all")
    with lock(folder), Progress(terminal(quiet=True)) as progress:
        at_work = Run(build(config, folder), folder, progress)
        persons = Persons(folder, serving.outer_keys)
        blind = any(getattr(part, "blind", False) for part in serving.parts.values())

        def desk(name: str) -> Desk:
            return Desk(folder / name, Path(run), at_work, persons, blind)

        asyncio.run(serve(serving, serving.parts, desk, persons, _say))
    return None


def _say(link: str, watchers: str | None) -> None:
    terminal().print(f"people come in at {link}", soft_wrap=True, highlight=False)
    if watchers is not None:
        terminal().print(f"runs are watched at {watchers}", soft_wrap=True, highlight=False)
    terminal().print("stop with Ctrl-C; the same command goes on with whatever is open")
