"""The task that writes a run's self-play as files for other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...credit import NothingKept
from ...data.consent import trainable
from ...data.formats.writers import WRITERS, Chosen, Source, Written, log
from ...data.scorer import ScoredMatches
from ...data.store import Matches
from ...report import cards
from ...report.progress import terminal
from ...run.config import ConfigError, overlaid, policies, scheduled
from ...run.contents import rounds_of, saved
from ...system.files import write_text
from ..stored import stored

Format: TypeAlias = Literal[
    "messages", "completions", "preferences", "openai", "sharegpt", "alpaca", "spin", "spag", "trajectories", "sotopia"
]


def export(
    config: DictConfig, out: Path, run: str, keep: Literal["credit", "all"], formats: list[Format] | None
) -> float | None:
    """Writes the self-play of each policy of `run` in `formats` (None: all with rows for this game), and a dataset
    card, `README.md`, from which `datasets` loads the folder. Nothing is uploaded.

    credit: the logs that credit kept, with the replies that it gave a positive reward (as a hosted learner uploads
    them); all: every log, without illegal and empty replies. Logs of other players, and matches of people who did not
    agree to training, are never written. preferences, spin, spag and trajectories use all remaining matches.
    """
    folder = Path(run)
    credit = ("objective", "schedule", "policies") if keep == "credit" else ()  # elsewhere in a run of 0.1.0
    nodes = stored(folder, config, "game", *credit)
    game, mine = instantiate(nodes["game"], _convert_="all"), saved(folder)
    rounds = {stage: _round(mine, folder, stage) for stage in rounds_of(folder)}
    if not rounds:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    found: list[Written] = []
    for policy in policies(mine):
        chosen = list(_credited(mine, rounds, policy) if keep == "credit" else _every(rounds.values(), policy))
        logs = [log(game, each) for each in chosen]
        source = Source(game, folder.name, policy, config.seed, chosen, logs, list(rounds.values()))
        place = out if len(policies(mine)) == 1 else out / policy
        found += [made for name in formats or WRITERS for made in WRITERS[name](place, source)]
    if not found:
        raise ConfigError(f"{run} has nothing for {', '.join(formats or WRITERS)}: task.keep=all writes every log")
    for each in found:
        count = f"{each.rows:,} rows in" if each.rows is not None else "also"
        terminal().print(f"{count} {each.path}: {each.told}", soft_wrap=True)
    write_text(out / cards.CARD, cards.data_card(folder, out, found, keep))
    terminal().print(
        f"card: {out / cards.CARD}; load it with datasets.load_dataset({str(out)!r}, NAME)", soft_wrap=True
    )
    return None


def _round(config: DictConfig, run: Path, stage: str) -> Matches:
    """The matches of a round, with their scores, if any."""
    folder = run / stage
    scores = folder / "score/scores.jsonl"
    return ScoredMatches(folder, scores) if config.scorer or scores.exists() else Matches(folder)


def _credited(config: DictConfig, rounds: Mapping[str, Matches], policy: str) -> Iterator[Chosen]:
    """A policy's kept logs of each round, with the replies worth imitating. Credit goes on from one round's state to
    the next, as in the run."""
    recipes, own, state = scheduled(config), policies(config)[policy], None
    for stage, matches in rounds.items():
        iteration = int(stage.partition("/")[0].removeprefix("iter_"))
        nodes = recipes[max(number for number in recipes if number <= iteration)]["objective"]
        credit = instantiate(overlaid(nodes, own.get("objective", {}))["credit"], _convert_="all")
        try:
            given = credit(matches, policy, state=state)
        except NothingKept:  # pairs without demonstrations, or a round without kept logs
            continue
        state = given.state
        for verdict in given.table:
            if verdict.good and trainable(matches[verdict.match]):
                yield Chosen(matches[verdict.match], verdict.seat, frozenset(verdict.good))


def _every(rounds: Iterable[Matches], policy: str) -> Iterator[Chosen]:
    """Every log of a policy, without illegal replies and services."""
    for matches in rounds:
        for episode in filter(trainable, matches):
            for seat, player in sorted(episode.players.items()):
                if player == policy and seat in episode.result.returns:
                    own = frozenset(turn.request for turn in episode.own if turn.seat == seat)
                    if own:  # a match may end before a seat's first request
                        yield Chosen(episode, seat, own - episode.refused(seat))
