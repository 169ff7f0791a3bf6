"""Reads the logs of the lm-selfplay code (Deal or No Deal by self-play, arXiv:2406.18872).

A folder of logs holds `results/NNN.json` (the context, both allocations and scores) and `json_logs/NNN_p0.json`
and `NNN_p1.json` (each player's clean chat). NNN has only three digits, so games beyond a thousand overwrite others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...games.base import Json, Message
from ...games.chats import read_messages
from ...system.files import InputError, read_json
from .messages import Log

ITEMS = ("book", "hat", "ball")
ABORT = "[ABORT]"
MOST = 20  # limit of the count and the value of an item; the published logs have at most 4 and 10

Items = tuple[int, int, int]  # books, hats, balls


@dataclass(frozen=True, slots=True)
class Record:
    """One logged game. Pairs are of player 0 and player 1; an allocation is None without a valid proposal."""

    name: str  # NNN
    counts: Items
    values: tuple[Items, Items]
    allocations: tuple[Items | None, Items | None]
    scores: tuple[int, int]
    is_valid_deal: bool
    message_count: int
    token_count: int  # GPT-2 tokens of the accepted actions
    chats: tuple[tuple[Message, ...], tuple[Message, ...]]

    @property
    def outcome(self) -> str:
        """deal, mismatch (two incompatible proposals), abort (a fifth illegal try) or unfinished (the limit of actions
        reached before both proposed)."""
        if self.is_valid_deal:
            return "deal"
        if any(ABORT in message.content for chat in self.chats for message in chat if message.role == "assistant"):
            return "abort"
        return "unfinished" if None in self.allocations else "mismatch"

    def log(self, player: int) -> Log:
        """The chat of player 0 or 1. An `[ABORT]`, which the published trainer may take for speech, is marked as
        rejected."""
        meta: dict[str, Json] = {
            "game": "deal",
            "scenario": "/".join(",".join(map(str, items)) for items in (self.counts, *self.values)),
            "role": f"p{player}",
            "outcome": self.outcome,
            "match": self.name,
            "payoff": float(self.scores[player]),
            "agreement_rate": float(self.is_valid_deal),
            "messages": float(self.message_count),
            "tokens": float(self.token_count),
        }
        chat = self.chats[player]
        aborted = (
            index for index, message in enumerate(chat) if message.role == "assistant" and ABORT in message.content
        )
        return Log(chat, meta, tuple(aborted))


def read(folder: Path) -> Iterator[Record]:
    """All games of a folder, ordered by name. InputError names the file that is missing or wrong, and the fault."""
    found = sorted((folder / "results").glob("*.json"))
    if not found:
        raise InputError(
            f"{folder}: no results/*.json; expected a folder of lm-selfplay logs, with results/ and json_logs/"
        )
    for path in found:
        yield _record(path, folder / "json_logs")


def _record(path: Path, logs: Path) -> Record:
    data = read_json(path)
    chats = tuple(_chat(logs / f"{path.stem}_p{player}.json") for player in (0, 1))
    try:
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {type(data).__name__}")
        return Record(
            name=path.stem,
            counts=_items(data, "counts"),
            values=(_items(data, "p0_values"), _items(data, "p1_values")),
            allocations=(_allocation(data, "p0_allocation"), _allocation(data, "p1_allocation")),
            scores=(_number(data, "p0_score"), _number(data, "p1_score")),
            is_valid_deal=_field(data, "is_valid_deal", bool),
            message_count=_number(data, "message_count"),
            token_count=_number(data, "token_count"),
            chats=(chats[0], chats[1]),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _chat(path: Path) -> tuple[Message, ...]:
    try:
        return read_messages(read_json(path))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; every game of results/ needs both players' logs in json_logs/") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _field(data: dict[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}, expected {kind.__name__}")
    return value


def _number(data: dict[str, Any], key: str) -> int:
    number: int = _field(data, key, int)
    if abs(number) > 1_000_000:
        raise ValueError(f"{key} is out of range")
    return number


def _items(data: dict[str, Any], key: str) -> Items:
    items = _field(data, key, dict)
    if set(items) != set(ITEMS) or not all(type(value) is int and 0 <= value <= MOST for value in items.values()):
        wanted = f"a whole number from 0 to {MOST} for each of {', '.join(ITEMS)}"
        raise ValueError(f"{key} is {str(items)[:80]}, expected {wanted}")
    return items["book"], items["hat"], items["ball"]


def _allocation(data: dict[str, Any], key: str) -> Items | None:
    return None if data.get(key) is None else _items(data, key)
