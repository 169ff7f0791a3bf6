"""Playing in the browser: the arena runs in its own thread, with a chair for each person.

Matches are stored in `<run>/table/play/`, an ordinary episode store, together with `seatings.jsonl` (who was seated),
`open-0.jsonl` (journal of open matches) and `failures.jsonl` (matches that somebody left). A restarted server continues
its open matches, each from its last turn.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from ..data.episode import Episode
from ..data.journal import Journal, clear
from ..data.replay import replay
from ..data.store import EpisodeStore, Matches
from ..games.base import Game, Json, Payoffs, Scenario, Tool, services
from ..models.snapshot import Snapshot
from ..play.arena import Report
from ..play.pairing import Seating
from ..play.player import Player, Sampling
from ..play.seats import Sitting
from ..run.config import ConfigError
from ..run.contents import all_snapshots, kept
from ..run.parts import plain
from ..system.bounds import Amount, Count, Positive
from ..system.files import append_lines
from ..system.naming import nearest
from ..system.printing import printable
from .chair import Chair, told
from .lobby import Booked, Bookings, Closing, Lobby
from .part import Body, Desk, Refusal, Served, text
from .persons import Person, is_person

TELL_S = 0.5  # seconds between two updates of who is writing
COARSE = 10  # shown token counts are rounded down to this, so that a reply's length does not reveal its content
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Play:
    """The part in which people play.

    partner      player for the free seats: a policy of the run (its kept snapshot), start, a script, a name of
                 `opponents`, or players: the one that `players` seats in each role. None: people play among themselves
    wait_s       seconds that the first person waits for others before the partner takes the free seats
    patience_s   seconds to answer a question; after that the match is given up
    split        split from which scenarios are drawn
    matches      most matches per person; None: no limit
    longest      most characters of a reply
    payoffs      payoffs to draw one from for each match, by the run's seed, such as [self, coop, comp]; empty: the
                 game's own
    names        whether people learn who the partner was, once a match is over; never in a study
    """

    partner: str | None
    wait_s: Amount
    patience_s: Positive
    split: Literal["train", "validation", "test"]
    matches: Count | None
    longest: Count
    names: bool = True
    payoffs: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, desk: Desk) -> AsyncIterator[Served]:
        """Starts the part; its arena plays in a thread until the server stops."""
        room = await asyncio.to_thread(_Room, self, desk, asyncio.get_running_loop())
        thread = threading.Thread(target=room.play, name="arena", daemon=True)
        thread.start()
        try:
            yield Served(
                "Play",
                "play.html",
                takes={"sit": room.sit, "say": room.say, "leave": room.leave},
                streams={"events": room.events},
            )
        finally:
            room.lobby.closing = True
            await asyncio.to_thread(thread.join)
            room.store.close()


class Bell:
    """Wakes pages when there is something new to show. `ring` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.rung, self._loop, self._event = 0, loop, asyncio.Event()

    def ring(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    async def after(self, rung: int) -> None:
        """Returns once the bell has rung more than `rung` times."""
        while self.rung <= rung:
            await self._event.wait()

    def _ring(self) -> None:
        self.rung += 1
        self._event.set()
        self._event = asyncio.Event()


class _Room:
    """The lobby, the chairs and the arena of a server, and the functions for its pages."""

    def __init__(self, play: Play, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self.settings, self.run, self.game = play, desk.at_work, desk.at_work.game
        self.folder, self.partners = desk.folder, _partners(play.partner, desk)
        self.store = EpisodeStore(desk.folder)
        bookings = Bookings(desk.folder, self.store)
        for seat, own in services(self.game).items():
            if isinstance(own, Tool) and seat not in self.run.serving:
                _ = own.answer  # built now, so that faults show before anybody comes
        sitting = {name for each in bookings.open.values() for name in each.players.values() if not is_person(name)}
        self.names = {*(self.partners or {}).values(), *sitting, *services(self.game), *self.run.serving.values()}
        self.snapshots = _snapshots(self.names - services(self.game).keys(), desk)
        if not bookings.open:
            clear(desk.folder)
        self.named = play.names and not desk.blind
        self.bells: dict[str, Bell] = defaultdict(partial(Bell, loop))
        self.chairs: dict[str, Chair] = {}
        self.guests: dict[str, Player] = {}
        self.lost: dict[str, str] = {}  # person -> reason why their last match was given up
        self.played: dict[str, Episode] = {}  # person -> their last match
        self.broken = ""
        self._failures = 0
        scenarios = self.game.scenarios(play.split)
        _check(play.payoffs, self.game, scenarios)
        self.lobby = Lobby(
            self.game, bookings, f"table/{desk.folder.name}", scenarios, self.partners,
            play.wait_s, play.matches, self.run.serving, self.run.seed, self._changed, play.payoffs,
        )  # fmt: skip
        for name in self.lobby.seated:
            self._chair(name)

    # --- the arena's thread -----------------------------------------------------------------------------------------

    def play(self) -> None:
        """Plays the lobby's seatings until it closes."""
        sampling = Sampling(**plain(self.run.config.eval.sampling))
        try:
            with self.run.seated(sampling, self.snapshots) as sitting, Journal(self.folder) as journal:
                seatings = self._watched(sitting)
                sitting.host(self.names, self.guests, seatings, self._ended, self._progress, journal)
        except Closing:
            pass
        except Exception:  # in the game or a backend: pages show it, and open matches stay open
            LOG.exception("play has stopped")
            self.broken = (
                "Play has stopped because of a fault. Your match is kept: it goes on once the table is restarted."
            )
            for bell in list(self.bells.values()):
                bell.ring()

    def _watched(self, sitting: Sitting) -> Iterator[Seating | None]:
        """The lobby's seatings. The arena asks for one after each token; this also updates, for those who wait, who is
        writing and how much. The text is not shown before the rules have accepted the reply."""
        at = 0.0
        for seating in self.lobby:
            if time.monotonic() - at > TELL_S:
                at = time.monotonic()
                self._tell(sitting.underway())
            yield seating

    def _tell(self, underway: Mapping[str, int]) -> None:
        writing: dict[str, dict[str, int]] = defaultdict(dict)
        for stream, count in underway.items():
            match, _, seat = stream.rpartition("/")
            writing[match][seat] = count - count % COARSE
        for name, booked in list(self.lobby.seated.items()):
            if name in self.chairs:
                self.chairs[name].tell(writing.get(booked.match, {}))

    def _ended(self, episode: Episode) -> None:
        self.store.append(episode)
        self.played.update(dict.fromkeys(filter(is_person, episode.players.values()), episode))
        self._leave(episode.id, "played")

    def _progress(self, report: Report) -> None:
        for failure in report.failures[self._failures :]:
            append_lines(self.folder / "failures.jsonl", [json.dumps(asdict(failure))])
            self._leave(failure.match, failure.reason)
        self._failures = len(report.failures)

    def _leave(self, match: str, over: str) -> None:
        booked = self.lobby.ended(match, over)
        for name in booked.players.values():
            if over != "played" and is_person(name):
                self.lost[name] = over
            self._changed(name)

    def _chair(self, name: str) -> None:
        if name not in self.chairs and is_person(name):
            made = Chair(name, self.settings.patience_s, self.bells[name].ring)
            self.guests[name] = self.chairs.setdefault(name, made)  # atomic: both threads call this

    def _changed(self, name: str) -> None:
        if name in self.lobby.seated:
            self._chair(name)
        if name in self.bells:
            self.bells[name].ring()

    # --- what pages call --------------------------------------------------------------------------------------------

    async def sit(self, person: Person, body: Body) -> Json:
        """{"alone": bool} enters the queue; {"go": true} leaves it."""
        if self.broken:
            raise Refusal(self.broken, 503)
        if body.get("go") is True:
            await asyncio.to_thread(self.lobby.go, person.player)
        else:
            self.lost.pop(person.player, None)
            await asyncio.to_thread(self.lobby.come, person.player, alone=body.get("alone") is True)
        return {}

    async def say(self, person: Person, body: Body) -> Json:
        """{"question": id, "text": reply} answers the open question."""
        question, said = text(body, "question", 500), text(body, "text", self.settings.longest)
        chair = self.chairs.get(person.player)
        if chair is None or not chair.answer(question, said):
            raise Refusal("this question is not open any more", 409)
        return {}

    async def leave(self, person: Person, body: Body) -> Json:
        """Gives the person's match up. Refusal if they have none."""
        if (booked := self.lobby.seated.get(person.player)) is None:
            raise Refusal("you are at no table", 409)
        self.chairs[person.player].leave(booked.match, "the person left")
        return {}

    async def events(self, person: Person) -> AsyncIterator[Json]:
        """Yields the person's full state whenever it changes, and in between {"writing": {seat: rounded token
        count}}."""
        bell, name, sent = self.bells[person.player], person.player, None
        told: Mapping[str, int] = {}
        with self.lobby.page(name):
            while True:
                rung = bell.rung
                if (state := await self._state(name)) != sent:
                    yield state
                    sent, told = state, {}
                if (writing := dict(self.chairs[name].writing) if name in self.chairs else {}) != told:
                    yield {"writing": writing}
                    told = writing
                await bell.after(rung)

    async def _state(self, name: str) -> Json:
        shared = {"game": self.game.name, "partner": self.partners is not None, "broken": self.broken}
        booked = self.lobby.seated.get(name)
        if booked is not None and name in self.chairs:
            aim = self.game.aim(booked.scenario) if isinstance(self.game, Payoffs) else ""
            return {**shared, **self.chairs[name].view(), "match": booked.match, "aim": aim}
        if self.lobby.waits(name):
            return {**shared, "phase": "lobby"}
        if name in self.lost:
            return {**shared, "phase": "lost", "why": printable(self.lost[name])}
        last = self.lobby.bookings.last.get(name)
        if last is not None and last.over == "played":
            return {**shared, "phase": "over", "over": await asyncio.to_thread(self._over, last, name)}
        return {**shared, "phase": "idle"}

    def _over(self, last: Booked, name: str) -> Json:
        if (episode := self.played.get(name)) is None or episode.id != last.match:  # it ended before a restart
            episode = Matches(self.folder)[last.match]
        return {"you": last.seat(name), **ending(self.game, episode, name, self.named)}


def ending(game: Game, episode: Episode, name: str, names: bool = True) -> dict[str, Json]:
    """The page's data of a finished match: the outcome, and for each role its player, its private knowledge and its
    payoff. Without `names` the partner stays anonymous."""
    again, result = replay(game, episode), episode.result
    first = {request.seat: request for request in reversed(again.requests)}
    roles: dict[str, Any] = {}
    for seat, payoff in result.returns.items():
        request, player = first.get(seat), episode.players[seat]
        roles[seat] = {
            "who": "you" if player == name else _other(player) if names else "the other side",
            "payoff": payoff,
            "outcome": result.outcome_by_seat.get(seat, ""),
            "knew": [told(message) for message in request.messages] if request else [],
            "seen": dict(request.observation or {}) if request else {},
            "metrics": {
                key: each[seat] for key, each in result.metrics.items() if isinstance(each, Mapping) and seat in each
            },
        }
    said = [[turn.seat, printable(turn.text)] for turn in episode.turns if turn.seat in result.returns]
    return {"outcome": result.outcome, "blame": list(result.blame), "roles": roles, "said": said}


def _other(player: str) -> str:
    return "another person" if is_person(player) else player


def _check(payoffs: Sequence[str], game: Game, scenarios: Sequence[Scenario]) -> None:
    """ConfigError for payoffs that the game does not offer."""
    if not payoffs:
        return
    if not isinstance(game, Payoffs):
        raise ConfigError(f"table.parts.play.payoffs: {game.name} is played for one payoff alone, leave it out")
    for name in payoffs:
        try:
            game.under(scenarios[0], name)
        except ValueError as error:
            raise ConfigError(f"table.parts.play.payoffs: {error}") from error


def _partners(name: str | None, desk: Desk) -> dict[str, str] | None:
    """Role -> the partner that takes it if nobody comes; None without a partner."""
    cast = desk.at_work.cast
    if name is None:
        return None
    found = dict(cast.table) if name == "players" else dict.fromkeys(cast.game.roles, name)
    return {role: found[role] for role in cast.game.roles}


def _snapshots(names: set[str], desk: Desk) -> dict[str, Snapshot]:
    """Name -> snapshot, for the partners `names` that have one. ConfigError for an unknown name."""
    run = desk.at_work
    models = names - {*run.game.scripts(), *run.parts.opponents}
    history = list(all_snapshots(desk.run).values()) if models else []
    found = run.cast.snapshots(models, history) if history else {}
    found |= {name: each for name, each in kept(desk.run).items() if name in models} if models else {}
    for name in sorted(models - found.keys()):
        known = ["players", *run.cast.policies, run.cast.start, *run.game.scripts(), *run.parts.opponents]
        raise ConfigError(f"table.parts.play.partner: there is no player {name}{nearest(name, known)}")
    return found
