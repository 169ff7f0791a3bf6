"""OpenAI's chat fine-tuning JSONL: {"messages": [{"role", "content"[, "weight"]}, …]}, one line per kept log.

The service trains on every assistant message whose `weight` is not 0, and requires the last message to be the
assistant's. So a log is cut after its last accepted reply, and refused replies before it have weight 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...games.base import Json
from .messages import Log, write_lines


def write(path: Path, logs: Iterable[Log]) -> int:
    """Writes the logs that have a reply to train on, replacing `path`; returns the number of lines."""
    lines = (line(entry) for entry in logs)
    return write_lines(path, (found for found in lines if found is not None))


def line(entry: Log) -> dict[str, Json] | None:
    """One log in the service's layout; None if the game accepted no reply of the seat."""
    accepted = [
        index
        for index, message in enumerate(entry.messages)
        if message.role == "assistant" and index not in entry.rejected
    ]
    if not accepted:
        return None
    told: list[dict[str, Json]] = []
    for index, message in enumerate(entry.messages[: accepted[-1] + 1]):
        told.append({"role": message.role, "content": message.content})
        if index in entry.rejected:
            told[-1]["weight"] = 0
    return {"messages": told}
