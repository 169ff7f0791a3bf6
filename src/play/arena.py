"""The arena (rollout engine): many matches in flight, requests batched per player; no match waits for a slower one."""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..data.episode import Episode, Turn
from ..data.store import EpisodeStore
from ..games.base import Game, Match, Reply, Request, seats, services
from ..system.seeds import derive
from .pairing import Seating
from .player import Completion, Player, Prompt, Recalls, Remembers

WAIT_S = 0.05  # maximum wait of one poll if no player has local work, in seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """A match without a result because a player was lost (finish "error"). It stays owed (to be played)."""

    match: str
    seat: str
    player: str
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Progress so far: finished matches, failed ones, turns, sampled tokens, open matches, wall-clock seconds."""

    matches: int
    failures: tuple[Failure, ...]
    turns: int
    tokens: int
    open: int
    seconds: float


class TooManyFailures(RuntimeError):
    """Players were lost more often than the arena tolerates. `report` has the failures."""

    def __init__(self, report: Report) -> None:
        reasons = Counter(f"{failure.player}: {failure.reason}" for failure in report.failures).most_common(3)
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        failed, begun = len(report.failures), len(report.failures) + report.matches + report.open
        super().__init__(
            f"{failed} of {begun} matches lost a player ({listed}); they stay owed: repair the player, then resume"
        )
        self.report = report


class _Table:
    """One match in flight."""

    __slots__ = ("answered", "given", "match", "missing", "policies", "requests", "seating", "turns")

    def __init__(self, seating: Seating, match: Match) -> None:
        self.seating, self.match = seating, match
        self.requests: Sequence[Request] = ()
        self.given = {turn.request: turn for turn in seating.prefix}  # turns of the prefix that were not used yet
        self.answered: dict[str, Turn] = {}  # request id -> its turn, until all open requests are answered
        self.missing = 0
        self.turns: list[Turn] = []
        self.policies = dict.fromkeys(seating.players, "")


class Arena:
    """Plays seatings (planned matches) of one game among named players. Pairing and sampling are decided elsewhere.

    players       by name; players may be added during play
    in_flight     maximum number of open matches
    max_failures  share of the matches (ended or open) that may lose a player before the run stops, after at least
                  `min_failures`

    ValueError if `in_flight` is below 1.
    """

    def __init__(
        self,
        game: Game,
        players: Mapping[str, Player],
        in_flight: int = 1024,
        max_failures: float = 0.1,
        min_failures: int = 10,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}: at least one match must be open")
        self.game, self.players = game, players
        self.in_flight, self.max_failures, self.min_failures = in_flight, max_failures, min_failures

    def play(
        self,
        seatings: Iterable[Seating | None],
        sink: Callable[[Episode], None],
        progress: Callable[[Report], None] | None = None,
        journal: Callable[[str, Turn], None] | None = None,
    ) -> Report:
        """Plays every seating; `sink` receives each episode once, in the order in which matches end.

        A seating None means none for now: the arena plays open matches, and asks again later. `journal` receives each
        turn with its match id at once; a later seating of the match with these turns as prefix resumes it. `progress`
        is called after every round of polls with new completions.

        TooManyFailures stops the run; KeyError names an unknown player, RuntimeError a player that answers a prompt it
        did not get, ValueError a prefix that is not of this match. On any error open prompts are cancelled, so the
        players stay usable.
        """
        # freezing keeps the collector from scanning models and libraries again and again, a third of scripted play's
        # time
        gc.freeze()
        try:
            return _Session(self, sink, journal).play(seatings, progress)
        finally:
            gc.unfreeze()


def owed(seatings: Iterable[Seating], store: EpisodeStore) -> bytes:
    """One byte per seating: 1 if its match is owed (not stored in any shard yet), else 0."""
    stored = store.index()
    return bytes(seating.match not in stored for seating in seatings)


class _Session:
    """One call of `Arena.play`."""

    def __init__(
        self, arena: Arena, sink: Callable[[Episode], None], journal: Callable[[str, Turn], None] | None
    ) -> None:
        self.arena, self.sink, self.journal = arena, sink, journal
        self.game, self.players = arena.game, arena.players
        self.tables: dict[str, _Table] = {}  # match id -> match in flight
        self.open: dict[str, dict[str, _Table]] = defaultdict(dict)  # player -> prompt id -> its match
        self.outbox: dict[str, list[Prompt]] = defaultdict(list)
        self.lost: set[str] = set()  # ids of the failed matches
        self.started = time.monotonic()
        self.matches = self.turns = self.tokens = 0
        self.failures: list[Failure] = []

    def play(self, seatings: Iterable[Seating | None], progress: Callable[[Report], None] | None) -> Report:
        waiting = iter(seatings)
        try:
            while self.fill(waiting):
                self.submit()
                answered = self.poll()
                if answered and progress is not None:
                    progress(self.report())
            if self.failures and not self.matches:
                raise TooManyFailures(self.report())
            return self.report()
        finally:
            self.cancel_all()

    def fill(self, waiting: Iterator[Seating | None]) -> bool:
        """Opens matches up to the limit; returns whether any is open or may still come."""
        while len(self.tables) < self.arena.in_flight:
            try:
                seating = next(waiting)
            except StopIteration:
                return bool(self.tables)
            if seating is None:
                return True
            self.seat(seating)
        return True

    def seat(self, seating: Seating) -> None:
        if seating.match in self.tables:
            raise ValueError(f"match {seating.match} is planned twice")
        wanted = [*seats(self.game, seating.scenario), *services(self.game)]
        if set(seating.players) != set(wanted):
            raise ValueError(f"match {seating.match} seats {list(seating.players)}; {self.game.name} has {wanted}")
        if unknown := sorted(set(seating.players.values()) - set(self.players)):
            raise KeyError(
                f"match {seating.match} needs the players {unknown}; at the table are {sorted(self.players)}"
            )
        table = _Table(seating, self.game.match(seating.scenario, seating.seed))
        self.tables[seating.match] = table
        self.ask(table, table.match.start())

    def ask(self, table: _Table, requests: Sequence[Request]) -> None:
        """Puts requests into their players' outboxes, except those that the prefix answers. No requests: the match is
        over."""
        while requests:
            table.requests = requests
            for request in requests:
                prompt = self.prompt(table.seating, request)
                if (turn := table.given.pop(request.id, None)) is None:
                    self.send(table, request, prompt)
                else:
                    self.recall(table, request, prompt, turn)
            if table.missing:
                break
            requests = self.step(table)
        if table.given:
            raise ValueError(f"match {table.seating.match} never comes to these turns of its prefix: {[*table.given]}")
        if not requests:
            self.finish(table)

    def prompt(self, seating: Seating, request: Request) -> Prompt:
        return Prompt(
            f"{seating.match}/{request.id}",
            f"{seating.match}/{request.seat}",
            request.messages,
            derive(seating.seed if seating.draw is None else seating.draw, request.id),
            request.kind,
            request.options,
            request.observation,
            persona=f"{seating.chance}/{request.seat}",
        )

    def send(self, table: _Table, request: Request, prompt: Prompt) -> None:
        name = table.seating.players[request.seat]
        if "/" in request.id or prompt.id in self.open[name]:
            raise ValueError(
                f"{self.game.name} asks {request.id!r}: request ids have no '/' and are unique in their match"
            )
        self.open[name][prompt.id] = table
        self.outbox[name].append(prompt)
        table.missing += 1

    def recall(self, table: _Table, request: Request, prompt: Prompt, turn: Turn) -> None:
        """Uses a recorded turn as the answer, and passes it to the player's `recall`."""
        seating = table.seating
        if (turn.seat, turn.kind) != (request.seat, request.kind):
            raise ValueError(
                f"match {seating.match} asks {request.id} as {(request.seat, request.kind)}; its prefix has "
                f"{(turn.seat, turn.kind)}"
            )
        table.answered[request.id] = turn
        if isinstance(player := self.players[seating.players[request.seat]], Recalls):
            version = player.recall(prompt, turn)
            if turn not in seating.prefix[: seating.parent[1] if seating.parent else 0]:
                table.policies[request.seat] = version

    def submit(self) -> None:
        for name, prompts in self.outbox.items():
            if prompts:
                self.outbox[name] = []
                self.players[name].submit(prompts)

    def poll(self) -> int:
        """Polls the players with open prompts once; waits only if none of them has local work."""
        asked = [name for name, prompts in self.open.items() if prompts]
        if not asked:  # no open prompts yet
            time.sleep(WAIT_S)
        idle = not any(self.players[name].busy for name in asked)
        answered = 0
        for name in asked:
            wait_s = WAIT_S / len(asked) if idle and not answered else 0.0
            for completion in self.players[name].poll(wait_s):
                answered += 1
                self.take(name, completion)
        return answered

    def take(self, name: str, completion: Completion) -> None:
        table = self.open[name].pop(completion.id, None)
        if table is None:
            if completion.id.rpartition("/")[0] in self.lost:
                return  # its match failed meanwhile
            raise RuntimeError(f"player {name} answered {completion.id}, which is not an open question to it")
        if completion.finish == "error":
            self.fail(table, name, completion)
            return
        request = next(each for each in table.requests if completion.id == f"{table.seating.match}/{each.id}")
        turn = Turn(
            request.id, request.seat, request.kind, completion.text, completion.finish, completion.call,
            completion.thought, completion.seconds,
        )  # fmt: skip
        if self.journal is not None:
            self.journal(table.seating.match, turn)
        table.answered[request.id] = turn
        table.policies[request.seat] = completion.policy
        table.missing -= 1
        self.turns += 1
        self.tokens += len(completion.token_ids or ())
        if not table.missing:
            self.ask(table, self.step(table))

    def step(self, table: _Table) -> Sequence[Request]:
        """Passes the replies to all open requests to the match, in order; returns the next requests."""
        turns = [table.answered.pop(request.id) for request in table.requests]
        table.turns += turns
        replies = [Reply(turn.request, turn.text, turn.finish) for turn in turns]
        try:
            return table.match.step(replies)
        except Exception as error:  # any fault of the game: raised again with the match's name
            error.add_note(f"in match {table.seating.match} of {self.game.name}, after {replies}")
            raise

    def finish(self, table: _Table) -> None:
        seating, game = table.seating, self.game
        players, turns, result = dict(seating.players), tuple(table.turns), table.match.result()
        self.leave(table)
        self.sink(
            Episode(
                seating.match,
                game.name,
                game.version,
                seating.scenario,
                seating.seed,
                players,
                table.policies,
                turns,
                result,
                seating.parent,
            )
        )
        self.matches += 1

    def fail(self, table: _Table, name: str, lost: Completion) -> None:
        """Abandons a match because the player `name` was lost; cancels its other open requests."""
        seating = table.seating
        request = next(request for request in table.requests if f"{seating.match}/{request.id}" == lost.id)
        self.failures.append(Failure(seating.match, request.seat, name, request.id, lost.text or "no reason given"))
        self.lost.add(seating.match)
        for other, prompts in self.open.items():
            if ids := [prompt for prompt, asker in prompts.items() if asker is table]:
                self.players[other].cancel(ids)
                for prompt in ids:
                    del prompts[prompt]
        self.leave(table)
        failed = len(self.failures)
        begun = failed + self.matches + len(self.tables)
        if failed >= self.arena.min_failures and failed > self.arena.max_failures * begun:
            raise TooManyFailures(self.report())

    def leave(self, table: _Table) -> None:
        """Removes a match and tells the players to forget its streams."""
        match = table.seating.match
        del self.tables[match]
        for seat, name in table.seating.players.items():
            if isinstance(player := self.players[name], Remembers):
                player.forget([f"{match}/{seat}"])

    def cancel_all(self) -> None:
        """Cancels all open requests."""
        for name, prompts in self.open.items():
            if prompts:
                self.players[name].cancel(list(prompts))
                prompts.clear()
        for table in list(self.tables.values()):
            self.leave(table)

    def report(self) -> Report:
        seconds = time.monotonic() - self.started
        return Report(self.matches, tuple(self.failures), self.turns, self.tokens, len(self.tables), seconds)
