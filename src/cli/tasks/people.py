"""The task that writes down what people did at a table, and forgets whom it is told to forget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig

from ...data.episode import Episode
from ...data.store import EpisodeStore, Matches
from ...report.progress import terminal
from ...report.table import figures_table
from ...run.config import ConfigError
from ...run.directory import begun
from ...run.stages import stage
from ...system.files import InputError, digest, lock, write_json
from ...table import exports
from ...table.forgetting import forget as forgotten
from ...table.played import stores
from ..stored import same_game
from .serving import FOLDER

STAGE = "iter_001/play"


def people(config: DictConfig, out: Path, run: str | None, forget: list[str]) -> float | None:
    """Writes `ratings`, `votes`, `persons` and `matches` of the table of `run`, each as JSONL and CSV, into this task's
    folder, and the matches themselves as a round of play with everybody's consent beside them, for data=matches. Prints
    how models did with people, and which side was preferred, with intervals by person and scenario. Persons in `forget`
    are taken out of the table's files before."""
    if run is None:
        raise ConfigError("task=people needs the run whose table it was: name it with run=…")
    same_game(Path(run), config)
    table = Path(run) / FOLDER
    if not table.is_dir():
        raise ConfigError(f"{run} has no table yet: people come with task=table run={run}")
    try:
        with lock(table) if forget else nullcontext():
            for person in forget:
                terminal().print(f"{person}: {forgotten(table, person)}")
    except InputError as error:
        raise ConfigError(f"task.forget: {error}") from error
    with begun(config, out):
        taken, played = exports.studies(table), [Matches(each) for each in stores(table)]
        found = exports.tables(taken, chain.from_iterable(played))
        exports.write(out, found)
        if played:
            inputs = {each.folder.name: digest(each.folder) for each in played}
            _store(out, exports.consented(taken, chain.from_iterable(played)), inputs)
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in found.items())
    terminal().print(f"{counts}: {out}", soft_wrap=True)
    figures = exports.figures(chain.from_iterable(played), found["votes"])
    write_json(out / "figures.json", figures)
    for title, own in figures.items():
        terminal().print(figures_table(title, own))
    return None


def _store(out: Path, matches: Iterable[Episode], inputs: Mapping[str, str]) -> None:
    def work() -> dict[str, int]:
        with EpisodeStore(out / STAGE) as store:
            stored = store.ids()
            for episode in matches:
                if episode.id not in stored:
                    store.append(episode)
            return {"matches": len(store.ids())}

    stage(out / STAGE, {"table": dict(inputs)}, work)
