"""Alpaca rows, as LLaMA-Factory and many others read them: {"instruction", "input", "output"}, one reply each.

A row has no place for a chat, so only replies to a single user message become rows, as in games that write each prompt
anew (Sotopia). The `input` is that message byte for byte, the `output` the reply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ...games.base import Json, Message
from ..episode import Episode
from ..replay import Replayed
from .messages import Log, meta_of


def rows(episode: Episode, replayed: Replayed, chosen: Collection[str]) -> Iterator[dict[str, Json]]:
    """A row for each reply to those of the requests `chosen` that consist of one user message."""
    for request, turn in zip(replayed.requests, episode.turns, strict=True):
        if request.id in chosen and [message.role for message in request.messages] == ["user"]:
            yield {"instruction": "", "input": request.messages[0].content, "output": turn.text}


def log(row: Mapping[str, Any]) -> Log:
    """A row as a chat; instruction and input become one message, joined by a newline. ValueError for parts that are no
    text, and for a row without instruction and input."""
    parts = [row.get(key, "") for key in ("instruction", "input", "output")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("instruction, input and output must be texts")
    asked = "\n".join(part for part in parts[:2] if part)
    if not asked:
        raise ValueError("instruction and input are empty: nothing is asked")
    said = Message("user", asked), Message("assistant", parts[2])
    return Log(said, meta_of(row, "instruction", "input", "output"))
