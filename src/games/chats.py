"""Chats as JSON: a list of {"role", "content"}, as every fine-tuning tool writes it. Untrusted: what is wrong is
said."""

from __future__ import annotations

from typing import get_args

from .base import Json, Message, Speaker

SPEAKERS: tuple[str, ...] = get_args(Speaker)


def read_messages(data: Json) -> tuple[Message, ...]:
    """A list of {"role", "content"} as messages. ValueError says which one is wrong, and how."""
    if not isinstance(data, list) or not data:
        raise ValueError('"messages" must be a list of at least one {"role", "content"} object')
    return tuple(_message(index, entry) for index, entry in enumerate(data))


def write_messages(messages: tuple[Message, ...] | list[Message]) -> list[Json]:
    """What `read_messages` reads."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _message(index: int, data: Json) -> Message:
    if not isinstance(data, dict):
        raise ValueError(f"message {index} is {type(data).__name__}, expected an object with role and content")
    role, content = data.get("role"), data.get("content")
    if role not in SPEAKERS:
        raise ValueError(f"message {index} has the role {role!r}, expected one of {', '.join(SPEAKERS)}")
    if not isinstance(content, str):
        raise ValueError(f"message {index} has content of type {type(content).__name__}, expected text")
    return Message(role, content)
