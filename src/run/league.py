"""A league: policies learn against themselves, frozen copies of each other, and fixed anchors.

After each iteration the members play each other on the test split; a pair plays once in a run, because members do not
change. The payoff table alone decides whom each policy meets in the next round, and whether an exploiter restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any

from ..data.store import Matches
from ..games.base import Game
from ..play.pairing import in_turn
from ..play.player import Sampling
from ..report import standings
from ..report.ratings import Meeting, meetings, rate
from ..system import ranks
from .cast import History, Snapshots
from .matchmaking import League, Plan
from .parts import plain
from .run import Run


class Standings:
    """The stages `iter_N/league` of a run, with the matches of the pairs below `league/`."""

    def __init__(self, run: Run, league: League) -> None:
        self.run, self.league, self.policies = run, league, list(run.parts.policies)
        self.sampling = Sampling(**plain(run.config.eval.sampling))

    def plan(self, number: int) -> Plan:
        """The plan of the round after the measured iteration `number`."""
        told = self.run.outputs(f"iter_{number:03d}/league")
        anew = tuple(name for name, age in told["ages"].items() if number and age == 0)
        return Plan({policy: dict(each) for policy, each in told["shares"].items()}, anew)

    def frozen(self, number: int) -> set[tuple[str, int]]:
        """(policy, iteration) of the copies after iteration `number`."""
        copies = self.run.outputs(f"iter_{number:03d}/league")["copies"]
        return {(policy, int(at)) for policy, _, at in (name.partition("@") for name in copies)}

    def measure(self, number: int, history: History) -> dict[str, Any]:
        """Plays the members' meetings after iteration `number`, the last of `history`."""
        present = self._present(number)
        who = self.run.cast.snapshots(present, history)
        inputs = {
            "players": self.run.versions(present, who), "league": self.run.node("league"),
            "sampling": asdict(self.sampling), "game": self.run.node("game"),
        }  # fmt: skip
        found: dict[str, Any] = self.run.stage(
            f"iter_{number:03d}/league", inputs, partial(self._measured, number, present, who)
        )
        return found

    def _present(self, number: int) -> list[str]:
        """The members: the anchors, the copies so far, and the current policies."""
        now = [f"{policy}@{number}" for policy in self.policies]
        return list(dict.fromkeys([*self.league.anchors, *self._before(number)["copies"], *now]))

    def _before(self, number: int) -> dict[str, Any]:
        """The outputs of the previous iteration's league stage."""
        found: dict[str, Any] = (
            self.run.outputs(f"iter_{number - 1:03d}/league") if number else {"copies": [], "ages": {}}
        )
        return found

    def _measured(self, number: int, present: Sequence[str], who: Snapshots) -> dict[str, Any]:
        met: list[Meeting] = []
        payoffs: dict[str, dict[str, float]] = {name: {} for name in present}
        for one, other in combinations(present, 2):
            told = self._pair(one, other, who)
            met += [Meeting(**each) for each in told["meetings"]]
            payoffs[one][other], payoffs[other][one] = told["payoffs"]
        before = self._before(number)
        copies = self.league.frozen(before["copies"], number, self.policies, payoffs)
        rated = rate(met, present[0], self.run.game.roles, self.run.seed, self.league.resamples)
        ranks.shared(lambda: standings.write(self.run.out / f"iter_{number:03d}/league", rated))
        return {
            "copies": copies,
            "payoffs": payoffs,
            "shares": {each: self.league.shares(each, number, copies, payoffs) for each in self.policies},
            "ages": self.league.ages(before["ages"], number, payoffs),
            "ratings": rated.to_json(),
        }

    def _pair(self, one: str, other: str, who: Snapshots) -> dict[str, Any]:
        """The meeting of two members, played once in a run."""
        name = f"league/{one}~{other}"
        both = {key: who[key] for key in (one, other) if key in who}
        scenarios = self.run.game.scenarios("test")[: self.league.scenarios]
        seatings = in_turn(self.run.game, scenarios, self.run.cast.meeting(one, other), self.run.seed, name)
        inputs = {"players": self.run.versions((one, other), both), "sampling": asdict(self.sampling)}
        look = partial(_told, one, other, self.run.game)
        found: dict[str, Any] = self.run.stage(
            name, inputs, partial(self.run.play, name, seatings, look, self.sampling, both)
        )
        return found


def _told(one: str, other: str, game: Game, matches: Matches) -> dict[str, Any]:
    """The meetings of a pair, and each one's payoff from 0 to 1."""
    met = meetings(one, other, matches)
    if game.facts.zero_sum:
        won, n = (sum(pair[at] for each in met for pair in each.clusters.values()) for at in (1, 0))
        payoffs = [won / n, 1 - won / n]
    else:
        payoffs = [_scaled(matches, name, game) for name in (one, other)]
    return {"meetings": [asdict(each) for each in met], "payoffs": payoffs}


def _scaled(matches: Matches, name: str, game: Game) -> float:
    """A player's mean return, scaled to 0..1 by the game's range of returns."""
    own = [value for each in matches for seat, value in each.result.returns.items() if each.players[seat] == name]
    low, high = game.facts.min_return, game.facts.max_return
    return (sum(own) / len(own) - low) / (high - low)
