"""clembench: its dialogue games as games (https://github.com/clembench/clembench)."""

from .game import Clembench

__all__ = ["Clembench"]
