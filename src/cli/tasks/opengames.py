"""Tasks for the games of TextArena and clembench: play a benchmark, list games."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from ...data.episode import Episode
from ...data.formats import clembench as files
from ...data.store import Matches
from ...games.base import Game
from ...games.clembench import Clembench
from ...games.clembench.game import loaded
from ...games.clembench.instances import listed
from ...games.splits import SPLITS
from ...games.suite import Suite
from ...games.textarena.environments import known
from ...games.textarena.port import environments, library
from ...play.pairing import in_turn
from ...play.player import Sampling
from ...report.clemscore import clemscore
from ...report.estimates import Column, Estimate
from ...report.progress import terminal
from ...run.build import running
from ...run.cast import names
from ...run.config import ConfigError
from ...run.contents import kept
from ...run.loop import Loop
from ...run.parts import plain
from ...run.run import figures
from ...system import ranks
from ...system.files import InputError, write_text

STAGE = "clembench"


@ranks.collective
def clembench(
    config: DictConfig,
    out: Path,
    run: str | None,
    splits: Sequence[str],
    group: int,
    layout: files.Layout,
    name: str | None,
) -> float | None:
    """Plays every instance of `splits` of one or several clembench games, with the kept snapshots of `run` or a new
    start; writes clembench's results folder and table, and the clemscore with its interval (clemscore.json). Returns
    the clemscore."""
    if odd := [split for split in splits if split not in SPLITS]:
        raise ConfigError(f"task.splits holds {', '.join(odd)}: expected some of {', '.join(SPLITS)}")
    with running(config, out) as at_work:
        game = at_work.game
        members(game)
        history = [kept(Path(run)) if run else Loop(at_work).start()]
        scenarios = [scenario for split in splits for scenario in game.scenarios(split)]
        plan = in_turn(game, scenarios, at_work.cast.round, at_work.seed, STAGE, group)
        seated = names(at_work.cast.round)
        who = at_work.cast.snapshots(seated, history)
        inputs = {
            "players": at_work.versions(seated, who) | at_work.served(),
            "game": at_work.node("game"),
            "play": plain(config.play),
            "splits": list(splits),
            "group": group,
            "seed": at_work.seed,
        }

        def played() -> dict[str, object]:
            with at_work.seated(Sampling(**plain(config.play.sampling)), who) as sitting:
                return ranks.shared(partial(figures, at_work.sit(sitting, STAGE, plan)))

        at_work.stage(STAGE, inputs, played)
        called = name or "--".join(dict.fromkeys(at_work.cast.table.values()))
        table, sure = ranks.shared(lambda: _written(out, called, game, at_work.episodes(STAGE), layout))
    shown = Table("", *table, title="clembench")
    shown.add_row(called, *(f"{value:.2f}" for value in table.values()))
    terminal().print(shown)
    if sure is not None:
        terminal().print(f"clemscore {sure.mean:.2f} [{sure.low:.2f}, {sure.high:.2f}]", markup=False)
    terminal().print(f"results folder: {out / 'results'}", soft_wrap=True)
    return table["-, clemscore"]


def members(game: Game) -> dict[str, Clembench]:
    """The clembench games in `game`, by the prefix of their scenarios' ids. ConfigError if another kind of game is
    among them."""
    found = {f"{name}/": each for name, each in game.members.items()} if isinstance(game, Suite) else {"": game}
    if odd := [name or game.name for name, each in found.items() if not isinstance(each, Clembench)]:
        raise ConfigError(f"task=clembench plays games of clembench, {', '.join(odd)} is none: say game=clembench")
    return {name: each for name, each in found.items() if isinstance(each, Clembench)}


def inner(game: Game, matches: Matches) -> Iterator[tuple[Clembench, Episode]]:
    """Each match with its clembench game, in that game's own form."""
    own = members(game)
    for episode in matches:
        name = episode.scenario.id.partition("/")[0] + "/" if isinstance(game, Suite) else ""
        scenario = replace(episode.scenario, id=episode.scenario.id.removeprefix(name))
        yield own[name], replace(episode, scenario=scenario)


def _written(
    out: Path, name: str, game: Game, matches: Matches, layout: files.Layout
) -> tuple[dict[str, float], Estimate | None]:
    """Writes the results; returns the table, and the clemscore with its interval, if known."""
    scored = files.write(out / "results", name, inner(game, matches), layout)
    table, sure = files.table(scored), interval(scored)
    files.write_table(out / "results", name, table)
    if sure is not None:
        write_text(out / "clemscore.json", json.dumps(sure.to_json()) + "\n")
    return table, sure


def interval(rows: Sequence[files.Scored]) -> Estimate | None:
    """The clemscore of `rows`, clustered by instance; None if no match was played to its end."""
    played, quality = defaultdict[str, Column](Column), defaultdict[str, Column](Column)
    clusters = dict[tuple[str, str, str], int]()
    for row in rows:
        cluster = clusters.setdefault((row.game, row.experiment, row.instance), len(clusters))
        played[row.game].add(row.played, cluster)
        if row.main is not None:
            quality[row.game].add(row.main, cluster)
    return clemscore(played, quality) if quality else None


def games(config: DictConfig, out: Path, path: str | None) -> float | None:
    """Lists TextArena's environments, and the games of the clembench checkout `path`, with their missing
    requirements."""
    table = Table("game", "name", "seats", "here")
    rows = [*_environments(), *(_games(path) if path else [])]
    for row in rows:
        table.add_row(*row)
    terminal().print(table)
    return None


def _environments() -> Iterator[tuple[str, str, str, str]]:
    try:
        library()
    except InputError as error:
        yield "textarena", "", "", str(error)
        return
    for env in environments():
        said = known(env)
        seats = ", ".join(map(str, said.players)) if len(said.players) < 4 else f"{said.players[0]}–{said.players[-1]}"
        yield "textarena", env, seats, said.refused or "; ".join(f"needs {each}" for each in said.lacks()) or "yes"


def _games(path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, entry in listed(path).items():
        told = "shows images" if entry.image != "none" else ""
        if not told:
            try:
                loaded(entry)
            except InputError as error:
                told = str(error).partition(f"{name} ")[2] or str(error)
        yield "clembench", name, str(entry.players), told or "yes"
