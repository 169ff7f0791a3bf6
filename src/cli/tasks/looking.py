"""Tasks that show or extract parts of a run."""

from __future__ import annotations

import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...data.episode import Episode
from ...data.replay import replay as replayed
from ...data.scorer import ScoredMatches, judged
from ...data.seal import SCORES
from ...data.store import Matches
from ...games.base import Game
from ...models.adapter import merge as merged
from ...report import html, listing, transcript
from ...report.dimensions import rated, table
from ...report.progress import terminal
from ...run.config import ConfigError
from ...run.contents import evaluations, find_match, kept_of, saved
from ...run.sharing import write_merged_card
from ..stored import stored


def show(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Prints one match of a run: all private views, retries, the result."""
    game, episode = _played(config, Path(run), match)
    terminal().print(transcript.text(episode, replayed(game, episode).views, game.facts.metrics))
    return None


def replay(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Replays the stored replies of a match and checks that the result is the same."""
    game, episode = _played(config, Path(run), match)
    replayed(game, episode)
    terminal().print(
        f"{match}: {len(episode.turns)} turns replayed, the same requests and the same result "
        f"({episode.result.outcome})"
    )
    return None


def runs(config: DictConfig, out: Path, folders: list[str], tags: list[str]) -> float | None:
    """Lists the runs below `folders`, or only those with all `tags`."""
    found = listing.runs(folders, tags)
    if not found:
        which = f" with the tags {', '.join(tags)}" if tags else ""
        raise ConfigError(
            f"there is no run{which} below {', '.join(folders)}: say 'task.folders=[DIR]', or begin one with parley"
        )
    terminal().print(listing.runs_table(found, time.time()))
    return None


def report(config: DictConfig, out: Path, run: str, transcripts: int) -> float | None:
    """Rewrites the report of `run`, with the game built from the stored config."""
    game: Game = instantiate(stored(Path(run), config, "game")["game"], _convert_="all")
    try:
        path = html.write(Path(run), game.facts, lambda episode: replayed(game, episode).views, transcripts)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"run={run}: no report can be written: {error}") from error
    terminal().print(f"report: {path}", soft_wrap=True)
    return None


def dimensions(
    config: DictConfig, out: Path, run: str, stages: list[str], player: str, names: list[str]
) -> float | None:
    """Prints judges' ratings of `player` in `stages` of a run, from metrics or scores. ConfigError if there are
    none."""
    folder = Path(run)
    saved(folder)
    shown = 0
    for stage in stages or evaluations(folder):
        scores = folder / stage / "score" / SCORES
        matches = ScoredMatches(folder / stage, scores) if scores.exists() else Matches(folder / stage)
        if found := rated(judged(matches), player, names):
            terminal().print(table(f"{stage}, {player}", found))
            shown += 1
    if not shown:
        raise ConfigError(
            f"run={run}: no judge has rated {player} on {', '.join(names)} in {stages or 'its evaluations'}"
        )
    return None


def _played(config: DictConfig, run: Path, match: str) -> tuple[Game, Episode]:
    """A match and its game (the judge's game for a verdict)."""
    episode, verdict = find_match(run, match)
    if verdict:
        return instantiate(stored(run, config, "scorer")["scorer"], _convert_="all").game([]), episode
    return instantiate(stored(run, config, "game")["game"], _convert_="all"), episode


def merge(config: DictConfig, out: Path, run: str, policy: str | None = None) -> float | None:
    """Writes the kept snapshot of `policy` (None: the first) of `run` as one Hugging Face folder, with its adapter
    merged into its base."""
    source = kept_of(Path(run), policy)
    made = merged(source, out / "model", source.version.rpartition("-")[0])
    write_merged_card(Path(run), source, made)
    terminal().print(f"snapshot {source.version} as a model of its own: {made.path}", soft_wrap=True)
    return None
