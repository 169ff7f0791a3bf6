"""Auction: a game for three. Each bidder knows what an item is worth to it alone; all bid at once, in closed envelopes.

The highest bid wins the item and pays the second highest (a Vickrey auction), so that the best bid is one's own value.
Of equal bids the earlier seat's wins. A bid that is against the rules is no bid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from parley.games import (
    Facts,
    GeneratorMatch,
    Marks,
    Match,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    split,
)

SEATS = ("ann", "ben", "cem")
METRICS = {
    "score": "the seat's values less what it paid",
    "efficient_rate": "share of the items that went to a seat that values them most",
    "invalid_rate": "share of the seat's bids that were against the rules",
}


class Auction:
    """The game: `items` items, worth 0 to `most` to each bidder."""

    name = "auction"
    version = 1
    roles = SEATS

    def __init__(self, items: int = 2, most: int = 9) -> None:
        self.items, self.most = items, most
        worst = items * most
        self.facts = Facts(min_return=-worst, max_return=worst, max_requests=3 * items, max_retries=0, metrics=METRICS)

    def scenarios(self, split_name: str) -> Sequence[Scenario]:
        """A thousand draws of values; a tenth each is held out for test and validation."""
        names = {f"{number:03d}": f"{number:03d}" for number in range(1000)}
        return [Scenario(name, {"values": self._values(name)}) for name in split(names, seed=0)[split_name]]

    def _values(self, name: str) -> list[list[int]]:
        draw = Random(int(name))
        return [[draw.randint(0, self.most) for _ in SEATS] for _ in range(self.items)]

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario.data["values"]))

    def scripts(self) -> Mapping[str, Script]:
        """`truthful` bids its value, `shy` half of it, `random` anything."""
        return {
            "truthful": lambda r, _, __: str(_seen(r)),
            "shy": lambda r, _, __: str(_seen(r) // 2),
            "random": self._any,
        }

    def _any(self, request: Request, rng: Random, persona: Random) -> str:
        return str(rng.randint(0, self.most))

    def _turns(self, values: Sequence[Sequence[int]]) -> Turns:
        views = [View(seat, self._told([worth[place] for worth in values])) for place, seat in enumerate(SEATS)]
        gains, illegal, best = dict.fromkeys(SEATS, 0), dict.fromkeys(SEATS, 0), 0
        marks: Marks = {}
        for number, worth in enumerate(values, 1):
            for view in views:
                view.tell(f"item {number}")
            replies = yield [view.ask(observation={"value": value}) for view, value in zip(views, worth, strict=True)]
            if unfit := [view.seat for view, reply in zip(views, replies, strict=True) if reply.finish == "context"]:
                return self._result(gains, illegal, best, marks, "context", unfit)
            bids = [self._bid(reply) for reply in replies]
            for view, reply, bid in zip(views, replies, bids, strict=True):
                view.hear(reply)
                if bid is None:
                    illegal[view.seat] += 1
                    marks[reply.id] = {"retry": "illegal"}  # so that nobody is trained on it
            winner, price = _sold([-1 if bid is None else bid for bid in bids])
            if winner is not None:
                gains[SEATS[winner]] += worth[winner] - price
                best += worth[winner] == max(worth)
            for view in views:
                view.tell("nobody bids" if winner is None else f"{SEATS[winner]} pays {price}")
        return self._result(gains, illegal, best, marks)

    def _told(self, own: Sequence[int]) -> str:
        return (
            f"you bid against two others , from 0 to {self.most} . to you the items are worth {' '.join(map(str, own))}"
        )

    def _result(
        self,
        gains: Mapping[str, int],
        illegal: Mapping[str, int],
        best: int,
        marks: Marks,
        outcome: str = "sold",
        blame: Sequence[str] = (),
    ) -> Result:
        metrics = {
            "score": gains,
            "efficient_rate": best / self.items,
            "invalid_rate": {seat: count / self.items for seat, count in illegal.items()},
        }
        return Result(gains, outcome, blame=tuple(blame), metrics=metrics, marks=marks)

    def _bid(self, reply: Reply) -> int | None:
        text = reply.text.strip()
        legal = reply.finish == "stop" and text.isascii() and text.isdecimal() and int(text[:9]) <= self.most
        return int(text) if legal else None


def _sold(bids: Sequence[int]) -> tuple[int | None, int]:
    """(the winner's place, the price), or (None, 0) where nobody bids."""
    order = sorted(range(len(bids)), key=lambda place: (-bids[place], place))
    return (None, 0) if bids[order[0]] < 0 else (order[0], max(bids[order[1]], 0))


def _seen(request: Request) -> int:
    return int((request.observation or {})["value"])
