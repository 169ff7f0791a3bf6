"""Conversational JSONL: one line per seat of a match, {"messages": [{"role", "content"}, …], "meta": {…}}.

This is the layout that TRL and most fine-tuning tools read. `meta` says where the chat comes from; chats of other
origin may lack it. Lines are untrusted: whatever is wrong is reported with the file and the line number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...games.base import Json, Message
from ...games.chats import read_messages, write_messages
from ...system.files import parse_line, replacing
from ..episode import Episode
from ..sample import Demonstration


@dataclass(frozen=True, slots=True)
class Meta:
    """Where a log comes from. `scenario` and `match` are ids; `payoff` is what the seat got."""

    game: str = ""
    scenario: str = ""
    role: str = ""
    player: str = ""
    outcome: str = ""
    match: str = ""
    payoff: float | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """One seat's whole view of a match. `rejected` are the positions of its own replies that the game refused."""

    messages: tuple[Message, ...]
    meta: Meta = Meta()
    rejected: tuple[int, ...] = ()

    def demonstration(self, name: str = "") -> Demonstration:
        """The log as something to imitate: every reply that the game accepted weighs 1, all else 0."""
        weights = tuple(
            float(message.role == "assistant" and index not in self.rejected)
            for index, message in enumerate(self.messages)
        )
        return Demonstration(name or f"{self.meta.match}/{self.meta.role}", self.messages, weights)


def log(episode: Episode, seat: str, view: Sequence[Message]) -> Log:
    """The log of `seat`, whose private view (as a replay of the episode gives it) is `view`."""
    result = episode.result
    refused = episode.refused(seat)
    outcome = result.outcome_by_seat.get(seat, result.outcome)
    meta = Meta(
        episode.game, episode.scenario.id, seat, episode.players[seat], outcome, episode.id, result.returns.get(seat)
    )
    return Log(tuple(view), meta, tuple(index for index, message in enumerate(view) if message.request in refused))


def write(path: Path, logs: Iterable[Log]) -> int:
    """Writes one line per log, replacing `path`; returns how many."""
    return write_lines(path, (_to_json(entry) for entry in logs))


def read(path: Path) -> Iterator[Log]:
    """The logs of a file, in order; blank lines are passed over. ValueError names the line that is no chat."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parse_line(line, path, number, _from_json)


def write_lines(path: Path, lines: Iterable[Json]) -> int:
    """Writes `path` as lines of JSON, whole or not at all; returns how many."""
    count = 0
    with replacing(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def _to_json(entry: Log) -> dict[str, Json]:
    meta: dict[str, Json] = {key: value for key, value in asdict(entry.meta).items() if value not in ("", None)}
    if entry.rejected:
        meta["rejected"] = list(entry.rejected)
    return {"messages": write_messages(entry.messages), "meta": meta}


def _from_json(data: Json) -> Log:
    if not isinstance(data, dict):
        raise ValueError(f'expected an object with "messages", got {type(data).__name__}')
    messages = read_messages(data.get("messages"))
    meta = data.get("meta", {})
    if not isinstance(meta, dict):
        raise ValueError(f'"meta" must be an object, got {type(meta).__name__}')
    return Log(messages, _meta(meta), _positions(meta.get("rejected", []), messages))


def _meta(data: Mapping[str, Any]) -> Meta:
    known = {key: data[key] for key in Meta.__slots__ if key in data}
    for key, value in known.items():
        right = (
            isinstance(value, (int, float)) and not isinstance(value, bool)
            if key == "payoff"
            else isinstance(value, str)
        )
        if not right:
            raise ValueError(f"meta.{key} is {value!r}, expected {'a number' if key == 'payoff' else 'text'}")
    return Meta(**known)


def _positions(data: Json, messages: Sequence[Message]) -> tuple[int, ...]:
    replies = {index for index, message in enumerate(messages) if message.role == "assistant"}
    if not isinstance(data, list) or not all(type(index) is int and index in replies for index in data):
        raise ValueError(f"meta.rejected is {data!r}, expected positions of assistant messages")
    return tuple(data)
