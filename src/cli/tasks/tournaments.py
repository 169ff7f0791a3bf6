"""The task that plays snapshots, opponents and scripts against each other, and rates them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from ...models.snapshot import Snapshot
from ...report import standings
from ...report.progress import terminal
from ...report.ratings import rate
from ...report.table import tournament_table
from ...run.build import running
from ...run.config import ConfigError, metric_name
from ...run.contents import all_snapshots, kept
from ...run.evaluation import Evaluation
from ...run.parts import PREVIOUS
from ...system import ranks
from ...system.bounds import Positive, Whole
from ...system.files import write_json
from ...system.naming import nearest
from ..stored import same_game, stored


@ranks.collective
def tournament(
    config: DictConfig,
    out: Path,
    run: str | None,
    runs: list[str],
    which: Literal["all", "kept"],
    anchor: str | None,
    resamples: Whole,
    alpha: Positive,
) -> float | None:
    """A tournament between the snapshots of `run` (or of several `runs`, all or those that they kept), the opponents
    and scripts of `eval.opponents`, on the test split, in the game, with the policies and with the services of
    `config`, which is composed from the first run.

    Writes `tournament.json` (figures), `ratings.json`, `ratings.csv`, `ratings.tex` and a page, `tournament.html`.
    """
    sources = _sources(run, runs)
    _seat(config, sources)
    members = _members(sources, which)
    names = [*members, *(name for name in config.eval.opponents if name != PREVIOUS)]
    if anchor is not None and anchor not in names:
        raise ConfigError(f"task.anchor: {anchor} does not play here, only {', '.join(names)}{nearest(anchor, names)}")
    with running(config, out) as at_work:
        table, found = Evaluation(at_work).tournament(members)
        ranks.shared(lambda: write_json(out / "tournament.json", table))
        terminal().print(tournament_table(table, metric_name(config)))
        if not found:
            return None
        rated = rate(found, anchor or found[0].one, at_work.game.roles, at_work.seed, resamples, alpha)
        ranks.shared(lambda: standings.write(out, rated))
    terminal().print(standings.as_table(rated))
    terminal().print(f"page: {out / 'tournament.html'}", soft_wrap=True)
    return None


def _sources(run: str | None, runs: list[str]) -> dict[str, Path]:
    """The runs by folder name, or "" for a single run."""
    if run is None and not runs:
        raise ConfigError("task=tournament needs snapshots: name a run with run=…, or several with runs=[…,…]")
    if run is not None and runs:
        raise ConfigError("run and runs: say one of them")
    if run is not None:
        return {"": Path(run)}
    found = {Path(each).resolve().name: Path(each) for each in runs}
    if len(found) < len(runs):
        raise ConfigError(f"runs: two folders have the same name, by which members are called: {', '.join(runs)}")
    return found


def _seat(config: DictConfig, sources: Mapping[str, Path]) -> None:
    """Takes the opponent's seat out of `config`; ConfigError where a run played another game."""
    first, *others = sources.values()
    same_game(first, config)
    for other in others:
        if stored(other, config, "game")["game"] != config.game:
            raise ConfigError(f"runs: {other} played another game than {first} (see `game` in both config.yaml)")
    config.players.pop("opponent", None)  # in a tournament each plays each role in turn


def _members(sources: Mapping[str, Path], which: str) -> dict[str, Snapshot]:
    """The snapshots by name: policy@iteration (the start is @0), with the prefix RUN: for several runs."""
    found: dict[str, Snapshot] = {}
    for name, folder in sources.items():
        chosen = kept(folder)
        for number, them in all_snapshots(folder).items():
            if which == "all" or them == chosen:
                found |= {f"{name}:{policy}@{number}".lstrip(":"): each for policy, each in them.items()}
    return found
