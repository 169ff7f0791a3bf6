"""The table of a stage: players by name, and matches played until none is owed.

A name is that of one of the game's scripts or services, of a person, of a snapshot, or of an opponent that the config
names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import Any, TypeAlias

from ..data.journal import Journal, clear
from ..data.store import EpisodeStore
from ..games.base import Game, services
from ..models.snapshot import Snapshot
from ..system import ranks
from ..system.files import append_lines
from .arena import Arena, Report, TooManyFailures, owed
from .pairing import Seating, Seatings
from .player import Backend, Player, Sampling
from .players import HumanPlayer, LanguagePlayer, ServedPlayer, Switchboard
from .tools import service

HUMAN = "human"
ATTEMPTS = 3  # rounds in which matches that lost a player are played again before the run stops

Who: TypeAlias = Mapping[str, Snapshot]  # the language models that may sit at a table, by name
Watch: TypeAlias = Callable[[int, bool], AbstractContextManager[Callable[[Report], Any]]]
"""(matches to play, whether a person plays) -> what is told of the arena's progress."""


@dataclass(frozen=True, slots=True)
class Opponent:
    """A language model that may be seated beside the learner. `backend` builds its backend (None: the learner's
    own)."""

    snapshot: Snapshot
    backend: Callable[[], Backend] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Where matches of `game` are played. `backend` builds a backend, which lives as long as one call of `play`;
    `ledgers` is the folder in which the requests to tools are booked (None: in memory)."""

    game: Game
    backend: Callable[[], Backend]
    in_flight: int
    opponents: Mapping[str, Opponent] = field(default_factory=dict)
    ledgers: Path | None = None

    def play(self, folder: Path, seatings: Iterable[Seating], sampling: Sampling, snapshots: Who, watch: Watch) -> None:
        """Plays into the episode store `folder` what it lacks of `seatings`, which all ranks share, each with a shard
        of its own.

        The plan is gone through several times, and is not held. Matches that lost a player are written to
        `failures.jsonl` and played again; TooManyFailures where that does not help. What people and served models say
        in a match is never asked for twice: a journal has it while the match is open.
        """
        plan = list(seatings) if isinstance(seatings, Iterator) else seatings
        with EpisodeStore(folder, ranks.rank()) as store:
            for _ in range(ATTEMPTS):
                owes = ranks.shared(lambda: owed(plan, store))
                if not any(owes):
                    ranks.shared(lambda: clear(folder))
                    return
                report = self._play(
                    Seatings(partial(compress, plan, owes)), sum(owes), store, sampling, snapshots, watch
                )
                if ranks.rank() == 0:
                    append_lines(
                        folder / "failures.jsonl", [json.dumps(asdict(failure)) for failure in report.failures]
                    )
        if report.failures:
            raise TooManyFailures(report)

    def _play(
        self, seatings: Seatings, count: int, store: EpisodeStore, sampling: Sampling, snapshots: Who, watch: Watch
    ) -> Report:
        """Plays this rank's share of the `count` seatings, dealt in turn, and meets the others; gives back what all of
        them played."""
        mine = Seatings(lambda: islice(seatings, ranks.rank(), None, ranks.world()))
        names = {player for seating in mine for player in seating.players.values()}
        with watch(count, HUMAN in names) as progress:
            with (
                self._seated(names, sampling, snapshots) as players,
                self._journal(names, snapshots, store.folder) as journal,
            ):
                opened = mine if journal is None else (_opened(seating, journal) for seating in mine)
                own = Arena(self.game, players, self.in_flight).play(opened, store.append, progress, journal)
            report = _summed(ranks.gathered(own))
            progress(report)
        return report

    def _journal(self, names: set[str], snapshots: Who, folder: Path) -> AbstractContextManager[Journal | None]:
        """The journal of matches in which somebody plays whose replies cost money or patience."""
        models = {**{name: each.snapshot for name, each in self.opponents.items()}, **snapshots}
        dear = {HUMAN, *(name for name, each in models.items() if each.served is not None)}
        return Journal(folder, ranks.rank()) if names & dear else nullcontext()

    @contextmanager
    def _seated(self, names: set[str], sampling: Sampling, snapshots: Who) -> Iterator[dict[str, Player]]:
        """The players of these names. One backend serves the learner and all opponents without one of their own; all
        are closed."""
        own = {**self.game.scripts(), **services(self.game)}
        players: dict[str, Player] = {name: service(own[name], name, self.ledgers) for name in names & own.keys()}
        if HUMAN in names:
            players[HUMAN] = HumanPlayer()
        models = {**self.opponents, **{name: Opponent(snapshot) for name, snapshot in snapshots.items()}}
        boards: dict[Callable[[], Backend], tuple[Backend, Switchboard]] = {}
        try:
            for name in sorted(names & models.keys()):
                build = models[name].backend or self.backend
                if build not in boards:
                    backend = build()
                    boards[build] = backend, Switchboard(backend)
                backend, board = boards[build]
                backend.load(models[name].snapshot)
                players[name] = _speaker(board.line(), models[name].snapshot, sampling, name)
            yield players
        finally:
            for player in (*players.values(), *(backend for backend, _ in boards.values())):
                player.close()


def _opened(seating: Seating, journal: Journal) -> Seating:
    """The seating, from where the journal's last process left it."""
    return replace(seating, prefix=seating.prefix + journal.turns(seating.match))


def _summed(reports: Sequence[Report]) -> Report:
    failures = tuple(failure for report in reports for failure in report.failures)
    matches, turns, tokens = (
        sum(getattr(report, name) for report in reports) for name in ("matches", "turns", "tokens")
    )
    return Report(matches, failures, turns, tokens, 0, max(report.seconds for report in reports))


def _speaker(line: Player, snapshot: Snapshot, sampling: Sampling, name: str) -> Player:
    """The player of a language model: one that renders here, or one whose server renders."""
    if snapshot.served is not None:
        return ServedPlayer(line, snapshot.version, sampling, name)
    from ..models.renderer import Renderer

    return LanguagePlayer(line, Renderer.load(snapshot.base or snapshot.path), snapshot.version, sampling, name)
