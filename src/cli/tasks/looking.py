"""Tasks that look into a run or take something out of it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ...data.replay import replay as replayed
from ...models.adapter import merge as merged
from ...report import transcript
from ...run.directory import find_match, kept


def show(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Prints one match of a run: both private views, retries, the result."""
    game, episode = find_match(Path(run), match)
    Console().print(transcript.text(episode, replayed(game, episode).views, game.facts.metrics))
    return None


def replay(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Plays the stored replies of a match again and checks that the result is the same."""
    game, episode = find_match(Path(run), match)
    replayed(game, episode)
    Console().print(
        f"{match}: {len(episode.turns)} turns replayed, the same requests and the same result "
        f"({episode.result.outcome})"
    )
    return None


def merge(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the kept snapshot of `run` as one Hugging Face folder, its adapter merged into its base."""
    source = kept(Path(run))
    made = merged(source, out / "model", source.version.rpartition("-")[0])
    Console().print(f"snapshot {source.version} as a model of its own: {made.path}", soft_wrap=True)
    return None
