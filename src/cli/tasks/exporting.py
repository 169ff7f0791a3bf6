"""The task that writes a run's self-play as files for other tools."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ...data.formats import messages, openai_chat, spag, spin_rows
from ...data.replay import replay as replayed
from ...data.store import EpisodeStore
from ...run.config import ConfigError
from ...run.directory import history, saved


def export(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the self-play of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a fine-tuning
    service); matches of Taboo as SPAG's files, too, and replies whose real counterpart is known as SPIN's
    (`spin.jsonl`)."""
    game = instantiate(saved(Path(run)).game)
    episodes = [
        episode
        for number in history(Path(run), "play")
        for episode in EpisodeStore(Path(run) / f"iter_{number:03d}/play", shard=None).read(ordered=True)
    ]
    logs = [
        messages.log(episode, seat, view)
        for episode in episodes
        for seat, view in replayed(game, episode).views.items()
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
