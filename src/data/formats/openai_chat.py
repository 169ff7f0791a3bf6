"""OpenAI's chat fine-tuning JSONL: {"messages": [{"role", "content"[, "weight"]}, …]}, one line per kept log.

The service trains every assistant message whose `weight` is not 0, and wants the last message to be the assistant's.
So what a seat was told after its last reply is left out, and a reply that the game refused carries weight 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...games.base import Json
from .messages import Log, write_lines


def write(path: Path, logs: Iterable[Log]) -> int:
    """Writes the logs that hold a reply to train on, replacing `path`; returns how many."""
    lines = (line(entry) for entry in logs)
    return write_lines(path, (found for found in lines if found is not None))


def line(entry: Log) -> dict[str, Json] | None:
    """One log as the service takes it; None where the seat never said anything that the game accepted."""
    replies = [index for index, message in enumerate(entry.messages) if message.role == "assistant"]
    if not set(replies) - set(entry.rejected):
        return None
    told: list[dict[str, Json]] = []
    for index, message in enumerate(entry.messages[: replies[-1] + 1]):
        told.append({"role": message.role, "content": message.content})
        if index in entry.rejected:
            told[-1]["weight"] = 0
    return {"messages": told}
