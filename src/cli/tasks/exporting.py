"""The task that writes a run's self-play as files for other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ...credit import NothingKept
from ...data.episode import Episode
from ...data.formats import messages, openai_chat, spag, spin_rows
from ...data.formats.messages import Log
from ...data.replay import replay as replayed
from ...data.scorer import ScoredMatches
from ...data.store import Matches
from ...games.base import Game
from ...run.config import ConfigError, scheduled
from ...run.directory import history, saved
from ...run.parts import LEARNER
from ..stored import stored


def export(config: DictConfig, out: Path, run: str, logs: Literal["kept", "all"]) -> float | None:
    """Writes the learner's self-play in `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a
    fine-tuning service); matches of Taboo as SPAG's files, too, and replies whose real counterpart is known as SPIN's
    (`spin.jsonl`).

    kept: the logs and replies that credit chose, which a hosted learner sends; all: every log, without illegal replies.
    Seats of others are never written as logs.
    """
    folder, old = Path(run), saved(Path(run))
    game = instantiate(stored(folder, config, "game", "objective", "schedule")["game"])
    rounds = {number: _round(old, folder, number) for number in history(folder, "play")}
    if not rounds:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    found = list(_kept(old, game, rounds) if logs == "kept" else _every(game, rounds.values()))
    count = messages.write(out / "messages.jsonl", found), openai_chat.write(out / "openai.jsonl", found)
    Console().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    played = [episode for matches in rounds.values() for episode in matches if LEARNER in episode.players.values()]
    for path in spag.export(out, game, played, LEARNER, config.seed):
        Console().print(f"as SPAG's code reads it: {path}", soft_wrap=True)
    if pairs := list(spin_rows.rows(played)):
        Console().print(f"{spin_rows.write(out / 'spin.jsonl', pairs)} pairs in {out}/spin.jsonl", soft_wrap=True)
    return None


def _round(config: DictConfig, run: Path, number: int) -> Matches:
    """The matches of a round, with their scores where the run has a scorer."""
    folder = run / f"iter_{number:03d}"
    return ScoredMatches(folder / "play", folder / "score/scores.jsonl") if config.scorer else Matches(folder / "play")


def _kept(config: DictConfig, game: Game, rounds: Mapping[int, Matches]) -> Iterator[Log]:
    """The logs that credit keeps of each round, in which only the replies that it chose are to be imitated."""
    nodes, changes = config.objective, scheduled(config)
    for number, matches in rounds.items():
        nodes = changes[number]["objective"] if number in changes else nodes
        try:
            table = instantiate(nodes["credit"])(matches, LEARNER).table
        except NothingKept:  # pairs without their demonstrations, or a round that taught nothing
            continue
        for verdict in table:
            if verdict.replies:
                yield _log(game, matches[verdict.match], verdict.seat, frozenset(verdict.replies))


def _every(game: Game, rounds: Iterable[Matches]) -> Iterator[Log]:
    return (
        _log(game, episode, seat)
        for matches in rounds
        for episode in matches
        for seat, player in sorted(episode.players.items())
        if player == LEARNER
    )


def _log(game: Game, episode: Episode, seat: str, chosen: frozenset[str] | None = None) -> Log:
    """The log of a seat; with `chosen` all other replies count as rejected."""
    view = replayed(game, episode).views[seat]
    log = messages.log(episode, seat, view)
    if chosen is None:
        return log
    rejected = (at for at, said in enumerate(view) if said.role == "assistant" and said.request not in chosen)
    return replace(log, rejected=tuple(rejected))
