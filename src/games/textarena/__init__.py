"""TextArena: its environments as games (https://github.com/LeonGuertler/TextArena)."""

from .game import TextArena

__all__ = ["TextArena"]
