"""Conversational JSONL: one line per seat of a match, {"messages": [{"role", "content"}, …], "meta": {…}}.

This is the layout that TRL and most fine-tuning tools read. `meta` says where the chat comes from; chats of other
origin may lack it, or say other things there, which are kept. Lines are untrusted: whatever is wrong is reported with
the file and the line number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...games.base import Json, Message
from ...games.chats import read_messages, write_messages
from ...system.files import parse_line, read_lines, replacing
from ..episode import Episode
from ..sample import Demonstration

TEXTS = ("game", "scenario", "role", "player", "outcome", "match")
"""What `meta` may say in text: ids of game, scenario and match, the seat, who played it, and how it ended for it.
Further there are `payoff`, what the seat got, and whatever else the source says."""


@dataclass(frozen=True, slots=True)
class Log:
    """One seat's whole view of a match, or any chat.

    rejected    positions of its own replies that the game refused
    generated   of a preference pair: the same prompt with a worse reply, which a policy generated or people rejected
    """

    messages: tuple[Message, ...]
    meta: Mapping[str, Json] = field(default_factory=dict)
    rejected: tuple[int, ...] = ()
    generated: tuple[Message, ...] = ()

    def demonstration(self, name: str = "") -> Demonstration:
        """The log as something to imitate: every reply that is not empty and that the game accepted weighs 1, all else
        0."""
        weights = tuple(
            float(message.role == "assistant" and index not in self.rejected and bool(message.content.strip()))
            for index, message in enumerate(self.messages)
        )
        name = name or f"{self.meta.get('match', '')}/{self.meta.get('role', '')}"
        return Demonstration(name, self.messages, weights, meta=self.meta)


def log(episode: Episode, seat: str, view: Sequence[Message]) -> Log:
    """The log of `seat`, whose private view (as a replay of the episode gives it) is `view`."""
    result = episode.result
    refused = episode.refused(seat)
    meta: dict[str, Json] = {
        "game": episode.game,
        "scenario": episode.scenario.id,
        "role": seat,
        "player": episode.players[seat],
        "outcome": result.outcome_by_seat.get(seat, result.outcome),
        "match": episode.id,
        "payoff": result.returns.get(seat),
    }
    return Log(tuple(view), meta, tuple(index for index, message in enumerate(view) if message.request in refused))


def write(path: Path, logs: Iterable[Log]) -> int:
    """Writes one line per log, replacing `path`; returns how many."""
    return write_lines(path, map(to_json, logs))


def read(path: Path) -> Iterator[Log]:
    """The logs of a file, in order; blank lines are passed over. InputError names the line that is no chat."""
    for number, line in read_lines(path):
        if line.strip():
            yield parse_line(line, path, number, from_json)


def write_lines(path: Path, lines: Iterable[Json]) -> int:
    """Writes `path` as lines of JSON, whole or not at all; returns how many."""
    count = 0
    with replacing(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def to_json(entry: Log) -> dict[str, Json]:
    """One line of a file."""
    meta: dict[str, Json] = {key: value for key, value in entry.meta.items() if value not in ("", None)}
    if entry.rejected:
        meta["rejected"] = list(entry.rejected)
    return {"messages": write_messages(entry.messages), "meta": meta}


def from_json(data: Json) -> Log:
    """The chat in a row {"messages", "meta"}; further keys of the row count as meta. ValueError says what is wrong.

    Replies that meta calls rejected, and those of `weight` 0 (OpenAI's layout), are not to be imitated.
    """
    if not isinstance(data, dict):
        raise ValueError(f'expected an object with "messages", got {type(data).__name__}')
    messages = read_messages(data.get("messages"))
    meta = meta_of(data, "messages")
    rejected = {*_positions(meta.pop("rejected", []), messages), *_weightless(data["messages"])}
    return Log(messages, meta, tuple(sorted(rejected)))


def meta_of(data: Mapping[str, Any], *content: str) -> dict[str, Json]:
    """What a row says besides its `content`: its other keys, and those of its object `meta`. ValueError for a value of
    ours that is of another type."""
    meta = data.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError(f'"meta" must be an object, got {type(meta).__name__}')
    found = {**{key: value for key, value in data.items() if key not in (*content, "meta")}, **meta}
    for key in TEXTS:
        if not isinstance(found.get(key), str | None):
            raise ValueError(f"meta.{key} is {found[key]!r}, expected text")
    if type(found.get("payoff")) not in (int, float, type(None)):
        raise ValueError(f"meta.payoff is {found['payoff']!r}, expected a number")
    return found


def _positions(data: Json, messages: Sequence[Message]) -> tuple[int, ...]:
    replies = {index for index, message in enumerate(messages) if message.role == "assistant"}
    if not isinstance(data, list) or not all(type(index) is int and index in replies for index in data):
        raise ValueError(f"meta.rejected is {data!r}, expected positions of assistant messages")
    return tuple(data)


def _weightless(data: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    return (at for at, entry in enumerate(data) if entry["role"] == "assistant" and entry.get("weight") == 0)
