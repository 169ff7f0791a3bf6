"""Prompts: one seat answers one prompt, with a known real reply. Chats from a file (`Prompts`), or an artificial
language (`Tales`)."""

from .game import Prompts
from .tales import Tales

__all__ = ["Prompts", "Tales"]
