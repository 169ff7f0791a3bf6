"""Sittings: sets of loaded players that play rounds of matches (rollout batches) until none is owed (still to be
played).

A player's name is that of a script or service of the game, a person, a snapshot, or an opponent from the config.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..data.consent import HUMAN
from ..data.episode import Episode
from ..data.journal import Journal, clear
from ..data.store import EpisodeStore
from ..games.base import Game, guide, services
from ..models.snapshot import Snapshot
from ..system import ranks
from ..system.files import append_lines
from .arena import Arena, Report, TooManyFailures, owed
from .pairing import Seating, Seatings
from .player import Backend, Counts, Player, Sampling
from .players import LanguagePlayer, ServedPlayer, Switchboard
from .terminal import HumanPlayer
from .tools import service

if TYPE_CHECKING:
    from ..models.bases import Weights

ATTEMPTS = 3  # attempts at matches that lost a player before the run stops

Who: TypeAlias = Mapping[str, Snapshot]  # the available language models, by name
Watch: TypeAlias = Callable[[int, bool], AbstractContextManager[Callable[[Report], Any]]]
"""(number of matches, whether a person plays) -> a context manager that yields the progress callback."""


@dataclass(frozen=True, slots=True)
class Opponent:
    """A language model that plays beside the learner. `backend` builds its backend (None: the learner's own)."""

    snapshot: Snapshot
    backend: Callable[[], Backend] | None = None


@dataclass(frozen=True, slots=True)
class Seats:
    """Opens sittings for matches of `game`. `backend` builds a backend, which lives as long as a sitting.

    `ledgers` is the folder of the ledgers of tool requests (None: in memory). `together` ranks share an
    engine: they play the same matches, and the first of them stores what was played.
    """

    game: Game
    backend: Callable[[], Backend]
    in_flight: int
    opponents: Mapping[str, Opponent] = field(default_factory=dict)
    ledgers: Path | None = None
    together: int = 1

    @contextmanager
    def open(self, sampling: Sampling, snapshots: Who) -> Iterator[Sitting]:
        """A sitting of these language models, the opponents, the game's scripts and a person; closes its players at the
        end."""
        sitting = Sitting(self, sampling, snapshots)
        try:
            yield sitting
        finally:
            sitting.close()

    def play(self, folder: Path, seatings: Iterable[Seating], sampling: Sampling, snapshots: Who, watch: Watch) -> None:
        """Opens a sitting for one call of `Sitting.play`."""
        with self.open(sampling, snapshots) as sitting:
            sitting.play(folder, seatings, watch)


class Sitting:
    """Players that stay loaded over several rounds of play, while the weights of some of them change.

    A player's model is loaded on first use: a rank without matches loads nothing. One backend serves all language
    models except opponents with their own.
    """

    def __init__(self, seats: Seats, sampling: Sampling, snapshots: Who) -> None:
        self.seats, self.sampling = seats, sampling
        self._models = {**seats.opponents, **{name: Opponent(snapshot) for name, snapshot in snapshots.items()}}
        self._own = {**seats.game.scripts(), **services(seats.game)}
        self._players: dict[str, Player] = {}
        self._boards: dict[Callable[[], Backend], tuple[Backend, Switchboard]] = {}

    def play(self, folder: Path, seatings: Iterable[Seating], watch: Watch) -> None:
        """Plays the matches of `seatings` that the episode store `folder` lacks. The ranks share the work; each writes
        its own shard.

        The plan is iterated several times, not held in memory. Matches that lost a player are logged to
        `failures.jsonl` and played again; TooManyFailures if that does not help. Replies of people and served models
        are never requested twice: a journal keeps them while the match is open.
        """
        plan = list(seatings) if isinstance(seatings, Iterator) else seatings
        with EpisodeStore(folder, ranks.rank()) as store:
            for _ in range(ATTEMPTS):
                owes = ranks.shared(lambda: owed(plan, store))
                if not any(owes):
                    ranks.shared(lambda: clear(folder))
                    return
                report = self._play(Seatings(partial(compress, plan, owes)), sum(owes), store, watch)
                if ranks.rank() == 0:
                    append_lines(
                        folder / "failures.jsonl", [json.dumps(asdict(failure)) for failure in report.failures]
                    )
        if report.failures:
            raise TooManyFailures(report)

    def match(self, seating: Seating) -> Episode:
        """Plays one match and stores nothing. TooManyFailures if it lost a player."""
        found: list[Episode] = []
        players = self._seat(seating.players.values())
        report = Arena(self.seats.game, players).play([seating], self._telling(players, found.append))
        if not found:
            raise TooManyFailures(report)
        return found[0]

    def host(
        self,
        names: Iterable[str],
        guests: MutableMapping[str, Player],
        seatings: Iterable[Seating | None],
        sink: Callable[[Episode], None],
        progress: Callable[[Report], None],
        journal: Journal,
    ) -> None:
        """Plays incoming seatings among the players `names` of this sitting and `guests`, which may grow. A lost player
        ends only its own match, any number of times."""
        players = ChainMap(guests, self._seat(names))
        opened = (None if seating is None else _opened(seating, journal) for seating in seatings)
        arena = Arena(self.seats.game, players, self.seats.in_flight, max_failures=1.0)
        with suppress(TooManyFailures):  # all were lost
            arena.play(opened, sink, progress, journal)

    def underway(self) -> dict[str, int]:
        """Stream ("<match id>/<seat>") -> tokens sampled so far, of the replies that models in this process are
        making."""
        counting = [backend for backend, _ in self._boards.values() if isinstance(backend, Counts)]
        return {stream: count for backend in counting for stream, count in backend.underway().items()}

    def update(self, name: str, version: str, weights: Weights) -> None:
        """Replaces the weights of the language model `name`: it continues as `version`, which must be unused.

        Other players of the same snapshot keep its weights. The backend shares tensors if it can (see
        `Backend.update`). Every rank must call it, because gathering the weights may need all of them.
        """
        self._seat([name])
        old, (backend, _) = self._models[name].snapshot, self._board(name)
        backend.update(old.version, version, weights)
        self._models[name] = replace(self._models[name], snapshot=replace(old, version=version))
        for other in self._players.keys() & self._models.keys():
            if self._models[other].snapshot.version == old.version and self._board(other)[0] is backend:
                backend.load(old)
        self._players.pop(name).close()
        self._seat([name])

    def close(self) -> None:
        """Closes the players and the backends."""
        for each in (*self._players.values(), *(backend for backend, _ in self._boards.values())):
            each.close()

    def _play(self, seatings: Seatings, count: int, store: EpisodeStore, watch: Watch) -> Report:
        """Plays this rank's (or its group's) share of the `count` seatings, dealt in turn, and waits for the other
        ranks; returns the report of all."""
        group, place = divmod(ranks.rank(), self.seats.together)
        groups = ranks.world() // self.seats.together
        mine, played = Seatings(lambda: islice(seatings, group, None, groups)), Played(None if place else store)
        names = {player for seating in mine for player in seating.players.values()}
        with watch(count, HUMAN in names) as progress:
            players = self._seat(names)
            with self._journal(names, store.folder) as journal:
                opened = mine if journal is None else (_opened(seating, journal) for seating in mine)
                own = Arena(self.seats.game, players, self.seats.in_flight).play(
                    opened, self._telling(players, played), progress, journal
                )
            report = _summed(_of_groups(ranks.gathered((own, played.digest)), self.seats.together))
            progress(report)
        return report

    def _telling(self, players: Mapping[str, Player], sink: Callable[[Episode], None]) -> Callable[[Episode], None]:
        """`sink`, plus a message to a person at the terminal when their match ends."""
        if not isinstance(person := players.get(HUMAN), HumanPlayer):
            return sink

        def told(episode: Episode) -> None:
            sink(episode)
            person.ended(episode)

        return told

    def _journal(self, names: set[str], folder: Path) -> AbstractContextManager[Journal | None]:
        """The journal, if any player is a person or a served model, whose replies are costly."""
        dear = {HUMAN, *(name for name, each in self._models.items() if each.snapshot.served is not None)}
        return Journal(folder, ranks.rank()) if names & dear else nullcontext()

    def _seat(self, names: Iterable[str]) -> dict[str, Player]:
        """The players of these names, created on first use; unknown names are left out."""
        for name in sorted(set(names) - self._players.keys()):
            if name in self._models:
                backend, board = self._board(name)
                backend.load(self._models[name].snapshot)
                self._players[name] = _speaker(board.line(), self._models[name].snapshot, self.sampling, name)
            elif name == HUMAN:
                self._players[name] = HumanPlayer(guide=guide(self.seats.game))
            elif name in self._own:
                self._players[name] = service(self._own[name], name, self.seats.ledgers)
        return {name: self._players[name] for name in names if name in self._players}

    def _board(self, name: str) -> tuple[Backend, Switchboard]:
        """The backend of the language model `name`, and its switchboard."""
        build = self._models[name].backend or self.seats.backend
        if build not in self._boards:
            backend = build()
            self._boards[build] = backend, Switchboard(backend)
        return self._boards[build]


class Played:
    """Stores episodes, in `store` where there is one. `digest` stands for their texts in the order of play."""

    def __init__(self, store: EpisodeStore | None) -> None:
        self.store, self._sum = store, sha256()

    def __call__(self, episode: Episode) -> None:
        self._sum.update(repr((episode.id, [turn.text for turn in episode.turns])).encode())
        if self.store is not None:
            self.store.append(episode)

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()


def _of_groups(told: Sequence[tuple[Report, str]], together: int) -> list[Report]:
    """The report of each group of ranks. RuntimeError where the ranks of one did not play the same."""
    for first in range(0, len(told), together):
        if len({digest for _, digest in told[first : first + together]}) > 1:
            raise RuntimeError(
                f"ranks {first} to {first + together - 1} share an engine and played different matches: "
                f"its replies, or a player, are not the same on all of them"
            )
    return [report for report, _ in told[::together]]


def _opened(seating: Seating, journal: Journal) -> Seating:
    """The seating, continued from the journal."""
    return replace(seating, prefix=seating.prefix + journal.turns(seating.match))


def _summed(reports: Sequence[Report]) -> Report:
    failures = tuple(failure for report in reports for failure in report.failures)
    matches, turns, tokens = (
        sum(getattr(report, name) for report in reports) for name in ("matches", "turns", "tokens")
    )
    return Report(matches, failures, turns, tokens, 0, max(report.seconds for report in reports))


def _speaker(line: Player, snapshot: Snapshot, sampling: Sampling, name: str) -> Player:
    """The player of a language model: LanguagePlayer renders here, ServedPlayer on the server."""
    if snapshot.served is not None:
        return ServedPlayer(line, snapshot.version, sampling, name)
    from ..models.renderer import Renderer

    return LanguagePlayer(line, Renderer.load(snapshot.base or snapshot.path), snapshot.version, sampling, name)
