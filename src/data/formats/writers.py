"""The writers of `task=export`: each turns a policy's self-play into files for other trainers.

A writer yields what it wrote: a name, the file, its number of rows, and whether `datasets` can read it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ...games.base import Game, Json, Message
from ...games.chats import write_messages
from ...system.files import read_json
from ..consent import trainable
from ..episode import Episode
from ..replay import replay as replayed
from ..store import Matches
from . import alpaca as alpaca_rows
from . import messages as chats
from . import openai_chat, sotopia, spag, spin_rows, trajectories
from .messages import Log, write_lines

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A seat of a match, and the ids of the requests whose replies are to be imitated."""

    episode: Episode
    seat: str
    replies: frozenset[str]


@dataclass(frozen=True, slots=True)
class Source:
    """A policy's self-play, as writers need it.

    chosen   the seats and replies to imitate; `logs` are the same as chats, in the same order, with all other replies
             rejected
    rounds   all matches, with their scores, by round
    """

    game: Game
    run: str
    policy: str
    seed: int
    chosen: Sequence[Chosen]
    logs: Sequence[Log]
    rounds: Sequence[Matches]

    @property
    def played(self) -> list[Episode]:
        """The policy's matches, without those of people who did not agree to training."""
        every = (each for matches in self.rounds for each in matches)
        return [each for each in every if self.policy in each.players.values() and trainable(each)]


@dataclass(frozen=True, slots=True)
class Written:
    """An exported file. `rows`: their number; None for a file that `datasets` does not read as rows."""

    name: str
    path: Path
    rows: int | None
    told: str


Writer: TypeAlias = Callable[[Path, Source], Iterator[Written]]


def log(game: Game, each: Chosen) -> Log:
    """The chat of a seat, with all replies rejected that are not chosen, or say nothing."""
    view = replayed(game, each.episode).views[each.seat]
    rejected = tuple(
        at
        for at, said in enumerate(view)
        if said.role == "assistant" and (said.request not in each.replies or not said.content.strip())
    )
    made = chats.log(each.episode, each.seat, view)
    return Log(made.messages, made.meta, rejected)


# --- rows -------------------------------------------------------------------------------------------------------------


def completions(logs: Iterable[Log]) -> Iterator[dict[str, Json]]:
    """TRL's prompt and completion: one row per reply to imitate."""
    for each in logs:
        for at, said in enumerate(each.messages):
            if said.role == "assistant" and at not in each.rejected:
                yield {"prompt": write_messages(each.messages[:at]), "completion": write_messages([said])}


def sharegpt(logs: Iterable[Log]) -> Iterator[dict[str, Json]]:
    """ShareGPT's chats. The layout cannot exclude a reply from training, so a chat ends before its first such reply."""
    for each in logs:
        end = min(each.rejected, default=len(each.messages))
        while end and each.messages[end - 1].role != "assistant":
            end -= 1
        if end:
            told = [{"from": SHAREGPT[said.role], "value": said.content} for said in each.messages[:end]]
            yield {"conversations": told}


def preferences(game: Game, matches: Iterable[Episode], policy: str) -> Iterator[dict[str, Json]]:
    """TRL's prompt, chosen and rejected, from groups: two matches of one scenario in which a seat saw the same until it
    replied differently. Of a seat's pairs the one with the largest difference in payoff is written, if it is not 0."""
    groups: dict[tuple[str, str], list[tuple[float, tuple[Message, ...], frozenset[str]]]] = defaultdict(list)
    for episode in matches:
        if episode.parent is not None or not trainable(episode):
            continue
        views = replayed(game, episode).views
        for seat, payoff in episode.result.returns.items():
            if episode.players[seat] == policy and seat in views:
                groups[episode.scenario.id, seat].append((payoff, views[seat], episode.refused(seat)))
    for (scenario, seat), found in groups.items():
        pairs = (
            (better[0] - worse[0], better, worse)
            for better, worse in itertools.permutations(found, 2)
            if better[0] > worse[0] and _parting(better[1], worse[1], better[2]) is not None
        )
        if (best := max(pairs, key=lambda pair: pair[0], default=None)) is not None:
            _, better, worse = best
            at = _parting(better[1], worse[1], better[2])
            assert at is not None
            yield {
                "prompt": write_messages(better[1][:at]),
                "chosen": write_messages([better[1][at]]), "rejected": write_messages([worse[1][at]]),
                "scenario": scenario, "role": seat, "payoff_chosen": better[0], "payoff_rejected": worse[0],
            }  # fmt: skip


def _parting(better: Sequence[Message], worse: Sequence[Message], refused: frozenset[str]) -> int | None:
    """The position where two views first differ, if it is the seat's own reply, and legal in the better one."""
    for at, (one, other) in enumerate(zip(better, worse, strict=False)):
        if (one.role, one.content) != (other.role, other.content):
            own = one.role == other.role == "assistant"
            return at if own and one.request not in refused else None
    return None


# --- files ------------------------------------------------------------------------------------------------------------


def _lines(name: str, told: str, rows: Callable[[Source], Iterable[Json]]) -> Writer:
    """A writer of JSON lines; no file without rows."""

    def write(out: Path, source: Source) -> Iterator[Written]:
        made, path = iter(rows(source)), out / f"{name}.jsonl"
        for first in made:
            yield Written(name, path, write_lines(path, itertools.chain([first], made)), told)

    return write


def _alpaca(source: Source) -> Iterator[Json]:
    for each in source.chosen:
        yield from alpaca_rows.rows(each.episode, replayed(source.game, each.episode), each.replies)


def _preferences(source: Source) -> Iterator[Json]:
    for matches in source.rounds:
        yield from preferences(source.game, matches, source.policy)


def _openai(source: Source) -> Iterator[Json]:
    return (line for each in source.logs if (line := openai_chat.line(each)) is not None)


def _spin(source: Source) -> Iterator[Json]:
    return (spin_rows.line(row) for row in spin_rows.rows(source.played))


def _files(told: str, made: Callable[[Path, Source], Iterable[Path]]) -> Writer:
    """A writer of JSON files; `datasets` reads those that are lists of rows."""

    def write(out: Path, source: Source) -> Iterator[Written]:
        for path in made(out, source):
            data = read_json(path)
            yield Written(path.stem, path, len(data) if isinstance(data, list) else None, told)

    return write


def _sotopia(out: Path, source: Source) -> Iterator[Written]:
    for path in sotopia.export(out, source.game, source.rounds, source.run):
        yield Written(path.stem, path, None, "Sotopia's episodes, whose rewards are of two types")


WRITERS: Mapping[str, Writer] = {
    "messages": _lines("messages", "chats with meta, one for each seat", lambda it: map(chats.to_json, it.logs)),
    "completions": _lines(
        "completions", "TRL's prompt and completion, one for each reply", lambda it: completions(it.logs)
    ),
    "preferences": _lines("preferences", "TRL's prompt, chosen and rejected, from groups of matches", _preferences),
    "openai": _lines("openai", "OpenAI's fine-tuning file", _openai),
    "sharegpt": _lines("sharegpt", "ShareGPT's chats", lambda it: sharegpt(it.logs)),
    "alpaca": _lines("alpaca", "Alpaca rows of replies to single messages", _alpaca),
    "spin": _lines("spin", "SPIN's real and generated replies", _spin),
    "spag": _files("as SPAG's code reads it", lambda out, it: spag.export(out, it.game, it.played, it.policy, it.seed)),
    "trajectories": _files("as FireAct's code reads it", lambda out, it: trajectories.export(out, it.played)),
    "sotopia": _sotopia,
}
"""The writers by name. A writer without rows for a game or run writes no file."""
