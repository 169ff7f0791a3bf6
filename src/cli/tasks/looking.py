"""Tasks that look into a run or take something out of it."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ...data.formats import messages, openai_chat, spag, spin_rows
from ...data.replay import replay as replayed
from ...data.store import EpisodeStore
from ...models.adapter import merge as merged
from ...report import transcript
from ...run.config import ConfigError
from ...run.directory import (
    find_match,
    kept_of,
    rounds_of,
    saved,
)


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


def export(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the self-play of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a fine-tuning
    service); matches of Taboo as SPAG's files, too, and replies whose real counterpart is known as SPIN's
    (`spin.jsonl`)."""
    game = instantiate(saved(Path(run)).game)
    episodes = [
        episode
        for stage in rounds_of(Path(run))
        for episode in EpisodeStore(Path(run) / stage, shard=None).read(ordered=True)
    ]
    logs = [
        messages.log(episode, seat, view)
        for episode in episodes
        for seat, view in replayed(game, episode).views.items()
        if seat in episode.result.returns  # services are nobody to learn from
    ]
    if not logs:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    count = messages.write(out / "messages.jsonl", logs), openai_chat.write(out / "openai.jsonl", logs)
    Console().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    for path in spag.export(out, game, episodes, config.seed):
        Console().print(f"as SPAG's code reads it: {path}", soft_wrap=True)
    if pairs := list(spin_rows.rows(episodes)):
        Console().print(f"{spin_rows.write(out / 'spin.jsonl', pairs)} pairs in {out}/spin.jsonl", soft_wrap=True)
    return None


def merge(config: DictConfig, out: Path, run: str, policy: str | None = None) -> float | None:
    """Writes the snapshot that `run` kept of `policy` (None: of the first) as one Hugging Face folder, its adapter
    merged into its base."""
    source = kept_of(Path(run), policy)
    made = merged(source, out / "model", source.version.rpartition("-")[0])
    Console().print(f"snapshot {source.version} as a model of its own: {made.path}", soft_wrap=True)
    return None
