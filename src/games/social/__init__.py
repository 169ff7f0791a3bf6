"""Sotopia: characters with private goals act out a social scenario (arXiv:2310.11667)."""

from .actions import KINDS, NONE, Action, parse
from .game import Social
from .people import Person, Task

__all__ = ["KINDS", "NONE", "Action", "Person", "Social", "Task", "parse"]
