"""Prompts: one seat answers one prompt, once; what is real is known. Plain chats (`Prompts`), or a made language
(`Tales`)."""

from .game import Prompts
from .tales import Tales

__all__ = ["Prompts", "Tales"]
