"""The task that writes a run's self-play as files for other tools."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...credit import NothingKept
from ...data.episode import Episode
from ...data.formats import alpaca, messages, openai_chat, sotopia, spag, spin_rows, trajectories
from ...data.formats.messages import Log
from ...data.replay import replay as replayed
from ...data.scorer import ScoredMatches
from ...data.store import Matches
from ...games.base import Game
from ...report.progress import terminal
from ...run.config import ConfigError, overlaid, policies, scheduled
from ...run.directory import rounds_of, saved
from ..stored import stored


@dataclass(frozen=True, slots=True)
class Chosen:
    """A seat of a match, and the requests whose replies are to be imitated."""

    episode: Episode
    seat: str
    replies: frozenset[str]


def export(config: DictConfig, out: Path, run: str, logs: Literal["kept", "all"]) -> float | None:
    """Writes the self-play of the policies of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a
    fine-tuning service); replies to single messages as `alpaca.jsonl`; matches of Taboo as SPAG's files, of Sotopia as
    its episodes, of question answering as FireAct's files, too, and replies whose real counterpart is known as SPIN's
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
    found = list(_kept(mine, rounds) if logs == "kept" else _every(rounds.values(), set(policies(mine))))
    told = [_log(game, each) for each in found]
    count = messages.write(out / "messages.jsonl", told), openai_chat.write(out / "openai.jsonl", told)
    terminal().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    for path in [*_alpaca(out, game, found), *sotopia.export(out, game, rounds.values(), folder.name)]:
        terminal().print(f"also {path}", soft_wrap=True)
    for policy in policies(mine):
        played = [each for matches in rounds.values() for each in matches if policy in each.players.values()]
        place = out if len(policies(mine)) == 1 else out / policy
        for path in spag.export(place, game, played, policy, config.seed):
            terminal().print(f"as SPAG's code reads it: {path}", soft_wrap=True)
        for path in trajectories.export(place, played):
            terminal().print(f"as FireAct's code reads it: {path}", soft_wrap=True)
        if pairs := list(spin_rows.rows(played)):
            terminal().print(
                f"{spin_rows.write(place / 'spin.jsonl', pairs)} pairs in {place}/spin.jsonl", soft_wrap=True
            )
    return None


def _round(config: DictConfig, run: Path, stage: str) -> Matches:
    """The matches of a round, with their scores where there are any."""
    folder = run / stage
    scores = folder / "score/scores.jsonl"
    return ScoredMatches(folder, scores) if config.scorer or scores.exists() else Matches(folder)


def _kept(config: DictConfig, rounds: Mapping[str, Matches]) -> Iterator[Chosen]:
    """The logs that credit keeps of each round and policy, and the replies that it chose."""
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
                    yield Chosen(matches[verdict.match], verdict.seat, frozenset(verdict.replies))


def _every(rounds: Iterable[Matches], learners: Collection[str]) -> Iterator[Chosen]:
    for matches in rounds:
        for episode in matches:
            for seat, player in sorted(episode.players.items()):
                if player in learners and seat in episode.result.returns:  # services are nobody to learn from
                    own = frozenset(turn.request for turn in episode.turns if turn.seat == seat)
                    yield Chosen(episode, seat, own - episode.refused(seat))


def _log(game: Game, each: Chosen) -> Log:
    """The log of a seat, in which all replies that are not chosen count as rejected."""
    view = replayed(game, each.episode).views[each.seat]
    rejected = (at for at, said in enumerate(view) if said.role == "assistant" and said.request not in each.replies)
    return replace(messages.log(each.episode, each.seat, view), rejected=tuple(rejected))


def _alpaca(out: Path, game: Game, found: Iterable[Chosen]) -> Iterator[Path]:
    """The file of Alpaca rows, where some replies were asked for with a single message."""
    rows = [row for each in found for row in alpaca.rows(each.episode, replayed(game, each.episode), each.replies)]
    if rows:
        messages.write_lines(out / "alpaca.jsonl", rows)
        yield out / "alpaca.jsonl"
