"""Scripts for every game that lists its legal replies (`observation["legal"]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from .base import Request


@dataclass(frozen=True, slots=True)
class Mixed:
    """A script that draws each reply from given probabilities (a behaviour strategy), so that it can be measured
    exactly.

    `chances(request)` gives the probability of each legal reply.
    """

    chances: Callable[[Request], Mapping[str, float]]

    def __call__(self, request: Request, rng: Random, persona: Random) -> str:
        chances = self.chances(request)
        return rng.choices(list(chances), weights=list(chances.values()))[0]


def legal_replies(request: Request) -> tuple[str, ...]:
    """The legal replies that a request lists; ValueError if it lists none."""
    listed = (request.observation or {}).get("legal")
    if not listed:
        raise ValueError(f"request {request.id!r} lists no legal replies (observation['legal'])")
    return tuple(listed)


def _alike(request: Request) -> dict[str, float]:
    replies = legal_replies(request)
    return dict.fromkeys(replies, 1 / len(replies))


uniform = Mixed(_alike)
"""The random player: all legal replies are equally likely."""
