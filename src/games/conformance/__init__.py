"""The conformance kit: tests any game against the contract of `parley.games.base`. It needs only the game.

    from parley.games import conformance
    conformance.check(MyGame())                              # raises ConformanceError, which names the
                                                             # check that failed

    @pytest.mark.parametrize("name", conformance.CHECKS)     # or each check as a test of its own
    def test_contract(name): conformance.CHECKS[name](MyGame(), matches=20, seed=0)

Matches are played by the game's own scripts, by junk, and by a mix; without scripts the replies are junk and words from
the game's own texts. Services are played by the game's scripts; tools are never called, and replaced by such words.
Each check tests one property and ignores matches that violate another one. What a game may have to say of its secrets
and of public chance stands in `games.conformance.secrecy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...system.conformance import ConformanceError
from ..base import Game
from .checks import (
    context,
    ends,
    enumerable,
    facts,
    global_random,
    json_,
    junk,
    marks,
    replay,
    requests,
    retries,
    returns,
    scenarios,
    scripts,
    seats_,
    views,
)
from .plays import JUNK, SPLITS
from .secrecy import secrets

CHECKS: Mapping[str, Callable[..., None]] = {
    "scenarios": scenarios,
    "seats": seats_,
    "junk": junk,
    "scripts": scripts,
    "ends": ends,
    "retries": retries,
    "requests": requests,
    "returns": returns,
    "marks": marks,
    "facts": facts,
    "replay": replay,
    "json": json_,
    "global_random": global_random,
    "views": views,
    "context": context,
    "enumerable": enumerable,
    "secrets": secrets,
}


def check(game: Game, matches: int = 20, seed: int = 0) -> None:
    """Runs all checks on `matches` matches each; raises ConformanceError for the first that fails."""
    for run in CHECKS.values():
        run(game, matches, seed)


__all__ = ["CHECKS", "JUNK", "SPLITS", "ConformanceError", "check"]
