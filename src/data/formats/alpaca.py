"""Alpaca rows, as LLaMA-Factory and many others read them: {"instruction", "input", "output"}, one reply each, with
earlier turns in {"system", "history": [[asked, answered], …]}, whose replies are imitated as well.

Only replies to a single user message become rows, as in games that write each prompt anew (Sotopia). The `input` is
that message byte for byte, the `output` the reply.
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
        if request.id in chosen and turn.text.strip() and [message.role for message in request.messages] == ["user"]:
            yield {"instruction": "", "input": request.messages[0].content, "output": turn.text}


def log(row: Mapping[str, Any]) -> Log:
    """A row as a chat. ValueError for parts that are no text, and for a row without instruction and input."""
    answer = row.get("output", "")
    if not isinstance(answer, str):
        raise ValueError("instruction, input and output must be texts")
    said = (*asked(row), Message("assistant", answer))
    return Log(said, meta_of(row, "instruction", "input", "output", "system", "history"))


def asked(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The chat before a row's answer; instruction and input become one message, joined by a newline."""
    parts = [row.get(key, "") for key in ("instruction", "input")]
    system, history = row.get("system", ""), row.get("history", [])
    if not all(isinstance(part, str) for part in (*parts, system)):
        raise ValueError("instruction, input and output must be texts, and system, if there is one")
    if not any(parts):
        raise ValueError("instruction and input are empty: nothing is asked")
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in history
    ):
        raise ValueError("history must be a list of pairs of texts, asked and answered")
    before = [message for pair in history for message in (Message("user", pair[0]), Message("assistant", pair[1]))]
    told = [Message("system", system)] if system else []
    return (*told, *before, Message("user", "\n".join(part for part in parts if part)))
