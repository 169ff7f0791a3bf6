"""Reads and writes chats as JSON: a list of {"role", "content"}, as in most fine-tuning tools. The input is
untrusted."""

from __future__ import annotations

from typing import get_args

from .base import Json, Message, Speaker

SPEAKERS: tuple[str, ...] = get_args(Speaker)


def read_messages(data: Json) -> tuple[Message, ...]:
    """A list of {"role", "content"} as messages; content may be a list of text parts. ValueError names the invalid
    message and its fault."""
    if not isinstance(data, list) or not data:
        raise ValueError('"messages" must be a list of at least one {"role", "content"} object')
    return tuple(_message(index, entry) for index, entry in enumerate(data))


def write_messages(messages: tuple[Message, ...] | list[Message]) -> list[Json]:
    """The JSON that `read_messages` reads."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _message(index: int, data: Json) -> Message:
    if not isinstance(data, dict):
        raise ValueError(f"message {index} is {type(data).__name__}, expected an object with role and content")
    if data.get("tool_calls") or data.get("function_call"):
        raise ValueError(
            f"message {index} calls a tool apart from its text, which cannot be read: write the call as text"
        )
    role, content = data.get("role"), _content(data.get("content"))
    if role not in SPEAKERS:
        raise ValueError(f"message {index} has the role {role!r}, expected one of {', '.join(SPEAKERS)}")
    if content is None:
        kind = type(data.get("content")).__name__
        raise ValueError(f"message {index} has content of type {kind}, expected text, or a list of text parts")
    return Message(role, content)


def _content(data: Json) -> str | None:
    """A message's text: a string, or the parts {"type": "text", "text"} of a list, joined. None for anything else."""
    if isinstance(data, str):
        return data
    if not isinstance(data, list) or not data:
        return None
    texts = [part.get("text") for part in data if isinstance(part, dict) and part.get("type", "text") == "text"]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if len(found) == len(data) else None
