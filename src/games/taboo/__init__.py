"""Adversarial Taboo: an attacker tries to make a defender say a secret word, and the defender tries to guess it."""

from .game import Taboo
from .judges import JUDGES, Judge, legacy, ruling, strict
from .scoring import METRICS

__all__ = ["JUDGES", "METRICS", "Judge", "Taboo", "legacy", "ruling", "strict"]
