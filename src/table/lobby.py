"""The lobby: seats the people who have come. Each seating is stored before its match begins."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

from ..data.store import EpisodeStore, repair
from ..games.base import Game, Json, Payoffs, Scenario, seats
from ..play.pairing import Seating, seated
from ..system.files import append_lines, read_jsonl
from ..system.seeds import derive, rng
from .part import Refusal
from .persons import is_person

FILE = "seatings.jsonl"
AWAY_S = 10.0  # seconds without an open page after which a waiting person leaves the queue


class Closing(Exception):
    """Raised when the table closes; open matches stay as they are."""


@dataclass(frozen=True, slots=True)
class Booked:
    """A seated match: who sits where. `over` is "" while it is open, then "played" or the reason for giving it up."""

    match: str
    scenario: Scenario
    seed: int
    players: Mapping[str, str]
    over: str = ""

    def seat(self, name: str) -> str:
        """The seat of the player `name`."""
        return next(seat for seat, player in self.players.items() if player == name)


class Bookings:
    """The matches ever seated. `seatings.jsonl` has a line for each seating and each match given up; finished matches
    are in the store. In memory are the open matches and the newest of each player."""

    def __init__(self, folder: Path, store: EpisodeStore) -> None:
        self.path = folder / FILE
        self.open: dict[str, Booked] = {}  # neither played nor given up
        self.last: dict[str, Booked] = {}  # player -> its newest match
        self.matches: Counter[str] = Counter()  # of each player, without those that were given up
        self.counts: Counter[str] = Counter()  # seatings of each scenario
        self.again: dict[str, Scenario] = {}  # scenarios whose newest match was given up, by id
        self.given_up = 0
        repair(self.path)
        stored = store.ids()
        for _ in read_jsonl(self.path, lambda row: self._read(row, stored)) if self.path.exists() else ():
            pass

    @property
    def drawn(self) -> int:
        """Number of scenarios drawn so far; a repeat of a match that was given up does not count."""
        return self.counts.total() - self.given_up + len(self.again)

    def add(self, booked: Booked) -> None:
        row = asdict(booked)
        del row["over"]
        append_lines(self.path, [json.dumps(row)])
        self._know(booked)

    def end(self, match: str, over: str) -> Booked:
        """Records that an open match was played, or why it was given up."""
        if over != "played":
            append_lines(self.path, [json.dumps({"match": match, "over": over})])
        return self._end(match, over)

    def _read(self, row: dict[str, Json], stored: Collection[str]) -> None:
        match = str(row["match"])
        if "over" not in row:
            self._know(Booked(**{**row, "scenario": Scenario(**row["scenario"])}))
            if match in stored:
                self._end(match, "played")
        elif match in self.open:
            self._end(match, str(row["over"]))

    def _know(self, booked: Booked) -> None:
        self.open[booked.match] = booked
        self.counts[booked.scenario.id] += 1
        self.again.pop(booked.scenario.id, None)
        self.last.update(dict.fromkeys(booked.players.values(), booked))
        self.matches.update(booked.players.values())

    def _end(self, match: str, over: str) -> Booked:
        booked = replace(self.open.pop(match), over=over)
        scenario = booked.scenario
        self.last.update({name: booked for name in booked.players.values() if self.last[name].match == match})
        if over != "played":
            self.given_up += 1
            self.matches.subtract(booked.players.values())
            if match.endswith(f"/{self.counts[scenario.id] - 1}"):  # its newest match, as `Lobby` numbers them
                self.again[scenario.id] = scenario
        return booked


@dataclass(slots=True)
class _Waiting:
    since: float
    alone: bool
    seen: float


class Lobby:
    """The queue of waiting people, the open matches, and the next seating.

    People are seated together as soon as enough are waiting for a scenario. Otherwise `partners` (role -> player; None:
    nobody) take the free seats after the first person has waited `wait_s` seconds, or at once for a person who does not
    want to wait. Scenarios come in an order drawn from `seed`, each with a payoff drawn from `payoffs`; the scenario of
    a match that was given up comes next, unchanged. Roles rotate.

    The arena's thread iterates over the lobby for seatings; pages call the other methods from the event loop.
    """

    def __init__(
        self,
        game: Game,
        bookings: Bookings,
        stage: str,
        scenarios: Sequence[Scenario],
        partners: Mapping[str, str] | None,
        wait_s: float,
        most: int | None,
        serving: Mapping[str, str],
        seed: int,
        changed: Callable[[str], None],
        payoffs: Sequence[str] = (),
    ) -> None:
        self.payoffs = list(payoffs)
        self.game, self.bookings, self.stage = game, bookings, stage
        self.partners, self.wait_s, self.most = partners, wait_s, most
        self.serving, self.seed, self.changed = serving, seed, changed
        self.scenarios = list(scenarios)
        rng(seed, "table").shuffle(self.scenarios)
        self._lock = Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._pages: Counter[str] = Counter()
        self._again, self._next = deque(bookings.again.values()), bookings.drawn
        self._reopened = deque(bookings.open.values())
        self.seated = {
            name: each for each in bookings.open.values() for name in each.players.values() if is_person(name)
        }
        self.closing = False

    def __iter__(self) -> Iterator[Seating | None]:
        while True:
            yield self._seating()

    # --- what pages call --------------------------------------------------------------------------------------------

    def come(self, name: str, alone: bool) -> None:
        """Puts a person into the queue; with `alone` they do not wait for other people. Refusal if they sit already or
        have played all their matches."""
        with self._lock:
            if name in self.seated:
                raise Refusal("you are at the table already", 409)
            if self.most is not None and self.bookings.matches[name] >= self.most:
                raise Refusal("you have played all your matches: thank you", 409)
            now = time.monotonic()
            since = self._waiting[name].since if name in self._waiting else now
            self._waiting[name] = _Waiting(since, alone and self.partners is not None, now)
        self.changed(name)

    def go(self, name: str) -> None:
        """Takes a person out of the queue."""
        with self._lock:
            self._waiting.pop(name, None)
        self.changed(name)

    def waits(self, name: str) -> bool:
        return name in self._waiting

    @contextmanager
    def page(self, name: str) -> Iterator[None]:
        """While a page of this person is open."""
        self._pages[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._pages[name] -= 1
                if name in self._waiting:
                    self._waiting[name].seen = time.monotonic()

    # --- what the arena's thread calls ------------------------------------------------------------------------------

    def ended(self, match: str, over: str) -> Booked:
        """Records the end of a match: played or given up."""
        with self._lock:
            booked = self.bookings.end(match, over)
            for name in booked.players.values():
                self.seated.pop(name, None)
            if over != "played":
                self._again.append(booked.scenario)
        return booked

    def _seating(self) -> Seating | None:
        with self._lock:
            if self.closing:
                raise Closing
            if self._reopened:
                booked = self._reopened.popleft()
            elif (found := self._group()) is not None:
                booked = self._book(*found)
            else:
                return None
        for name in booked.players.values():
            self.changed(name)
        return Seating(booked.match, booked.scenario, booked.seed, booked.players)

    def _group(self) -> tuple[Scenario, list[str]] | None:
        """The next scenario and the people to seat; None while too few are waiting."""
        now = time.monotonic()
        for name, each in list(self._waiting.items()):
            if not self._pages[name] and now - each.seen > AWAY_S:
                del self._waiting[name]
        there = [name for name in self._waiting if self._pages[name]]
        if not there:
            return None
        scenario = self._again[0] if self._again else self._drawn()
        people = [name for name in there if not self._waiting[name].alone]
        wanted = len(seats(self.game, scenario))
        if alone := [name for name in there if self._waiting[name].alone]:
            return scenario, alone[:1]
        if len(people) >= wanted:
            return scenario, people[:wanted]
        if self.partners is not None and now - self._waiting[people[0]].since >= self.wait_s:
            return scenario, people
        return None

    def _drawn(self) -> Scenario:
        """The next scenario, with its payoff."""
        scenario = self.scenarios[self._next % len(self.scenarios)]
        if not self.payoffs or not isinstance(self.game, Payoffs):
            return scenario
        return self.game.under(scenario, rng(self.seed, "payoff", self._next).choice(self.payoffs))

    def _book(self, scenario: Scenario, people: Sequence[str]) -> Booked:
        if self._again:
            self._again.popleft()
        else:
            self._next += 1
        roles = seats(self.game, scenario)
        shift = self.bookings.counts.total() % len(roles)
        sitting = {roles[(place + shift) % len(roles)]: name for place, name in enumerate(people)}
        players = seated(self.game, scenario, {**(self.partners or {}), **sitting, **self.serving})
        match = f"{self.stage}/{scenario.id}/{self.bookings.counts[scenario.id]}"
        booked = Booked(match, scenario, derive(self.seed, "match", match), players)
        self.bookings.add(booked)
        for name in people:
            del self._waiting[name]
            self.seated[name] = booked
        return booked
