"""The task that writes a run's self-play as files for other tools."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...credit import NothingKept
from ...data.episode import Episode
from ...data.formats import messages, openai_chat, spag, spin_rows
from ...data.formats.messages import Log
from ...data.replay import replay as replayed
from ...data.scorer import ScoredMatches
from ...data.store import Matches
from ...games.base import Game
from ...report.progress import terminal
from ...run.config import ConfigError, overlaid, policies, scheduled
from ...run.directory import rounds_of, saved
from ..stored import stored


def export(config: DictConfig, out: Path, run: str, logs: Literal["kept", "all"]) -> float | None:
    """Writes the self-play of the policies of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a
    fine-tuning service); matches of Taboo as SPAG's files, too, and replies whose real counterpart is known as SPIN's
    (`spin.jsonl`).

    kept: the logs and replies that credit chose, which a hosted learner sends; all: every log, without illegal replies.
    Seats of others are never written as logs.
    """
    folder = Path(run)
    credit = ("objective", "schedule", "policies") if logs == "kept" else ()  # a run of 0.1.0 has it elsewhere
    nodes = stored(folder, config, "game", *credit)
    game, mine = instantiate(nodes["game"]), saved(folder)
    rounds = {stage: _round(mine, folder, stage) for stage in rounds_of(folder)}
    if not rounds:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    found = list(_kept(mine, game, rounds) if logs == "kept" else _every(game, rounds.values(), set(policies(mine))))
    count = messages.write(out / "messages.jsonl", found), openai_chat.write(out / "openai.jsonl", found)
    terminal().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    for policy in policies(mine):
        played = [each for matches in rounds.values() for each in matches if policy in each.players.values()]
        place = out if len(policies(mine)) == 1 else out / policy
        for path in spag.export(place, game, played, policy, config.seed):
            terminal().print(f"as SPAG's code reads it: {path}", soft_wrap=True)
        if pairs := list(spin_rows.rows(played)):
            terminal().print(
                f"{spin_rows.write(place / 'spin.jsonl', pairs)} pairs in {place}/spin.jsonl", soft_wrap=True
            )
    return None


def _round(config: DictConfig, run: Path, stage: str) -> Matches:
    """The matches of a round, with their scores where the run has a scorer."""
    folder = run / stage
    return ScoredMatches(folder, folder / "score/scores.jsonl") if config.scorer else Matches(folder)


def _kept(config: DictConfig, game: Game, rounds: Mapping[str, Matches]) -> Iterator[Log]:
    """The logs that credit keeps of each round and policy, in which only the replies that it chose are to be
    imitated."""
    recipes = scheduled(config)
    for stage, matches in rounds.items():
        iteration = int(stage.partition("/")[0].removeprefix("iter_"))
        nodes = recipes[max(number for number in recipes if number <= iteration)]["objective"]
        for policy, own in policies(config).items():
            credit = instantiate(overlaid(nodes, own.get("objective", {}))["credit"])
            try:
                table = credit(matches, policy).table
            except NothingKept:  # pairs without their demonstrations, or a round that taught nothing
                continue
            for verdict in table:
                if verdict.replies:
                    yield _log(game, matches[verdict.match], verdict.seat, frozenset(verdict.replies))


def _every(game: Game, rounds: Iterable[Matches], learners: Collection[str]) -> Iterator[Log]:
    return (
        _log(game, episode, seat)
        for matches in rounds
        for episode in matches
        for seat, player in sorted(episode.players.items())
        if player in learners and seat in episode.result.returns  # services are nobody to learn from
    )


def _log(game: Game, episode: Episode, seat: str, chosen: frozenset[str] | None = None) -> Log:
    """The log of a seat; with `chosen` all other replies count as rejected."""
    view = replayed(game, episode).views[seat]
    log = messages.log(episode, seat, view)
    if chosen is None:
        return log
    rejected = (at for at, said in enumerate(view) if said.role == "assistant" and said.request not in chosen)
    return replace(log, rejected=tuple(rejected))
