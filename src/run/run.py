"""`Run`: the parts of an experiment, and the stages of its run directory.

This module defines how stages run and how matches are played into them. Start, Loop, Evaluation, Demonstrations and
Scoring define which stages there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..data.episode import Episode
from ..data.store import Matches
from ..games.base import Game
from ..play.arena import Report
from ..play.pairing import Seating
from ..play.player import Sampling
from ..play.seats import Seats, Sitting, Watch, Who
from ..report.clemscore import clemscores
from ..report.estimates import Tally, to_json
from ..report.progress import Progress, terminal
from ..system import ranks
from ..system.files import InputError, digest
from .beginnings import borrow, lend, sweep_of
from .cast import Cast
from .config import imitation_learner
from .directory import SPENDING
from .parts import Parts, plain
from .stages import Clock, Done, finished, stage


class Run:
    """The stages of one run directory. Calls are idempotent: finished stages are skipped."""

    def __init__(self, parts: Parts, out: Path, progress: Progress) -> None:
        self.parts, self.config, self.game = parts, parts.config, parts.game
        self.out, self.progress, self.sweep = out, progress, sweep_of(out)
        self.seed, self.cast = int(parts.config.seed), cast_of(parts)
        self.seats = Seats(
            self.game, parts.backend, self.config.play.in_flight, parts.opponents, ledgers=out / SPENDING,
            together=parts.config.backend.get("tensor_parallel", 1),
        )  # fmt: skip
        self.done: dict[str, Done] = {}
        self.clock = Clock()
        self._nodes: dict[str, Any] = {}

    def node(self, name: str) -> Any:
        """The config node `name` as a stage input, with digests of the files that its part lists in `files` (name ->
        path), so that changed files are noticed. (Rank 0's inputs count.)"""
        if name not in self._nodes:
            files = getattr(getattr(self.parts, name), "files", {}) if ranks.rank() == 0 else {}
            content = {key: digest(Path(path)) for key, path in files.items()}
            self._nodes[name] = (
                {**plain(self.config[name]), "content": content} if content else plain(self.config[name])
            )
        return self._nodes[name]

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[..., Any] | None = None,
        alone: Callable[[], Any] | None = None,
        shared: bool = False,
    ) -> Any:
        """Runs the stage `name` unless it is finished; returns its outputs (plain JSON). A `shared` stage depends only
        on its inputs and those of `_key`: the jobs of a sweep run it once.

        `alone` is called on rank 0 only, to read and write files. `work` is called on every rank, with the result of
        `alone` if given; without `work` the outputs are the result of `alone`.
        """

        def both() -> Any:
            given = [] if alone is None else [ranks.shared(alone)]
            return given[0] if work is None else work(*given)

        if self.sweep is None or not shared:
            done = stage(self.out / name, inputs, both)
        else:
            key = self._key(name, inputs)
            ranks.shared(partial(self._borrow, self.sweep, key, name, digest(inputs)))
            done = stage(self.out / name, inputs, both)
            ranks.shared(partial(lend, self.sweep, key, self.out / name))
        self.done.setdefault(name, done)
        return done.outputs

    def _key(self, name: str, inputs: Mapping[str, Any]) -> str:
        """A digest of all inputs of demonstrations, base or imitation; of the learner only the node for imitation."""
        nodes = {each: self.node(each) for each in ("game", "data")}
        plainly = {each: plain(self.config[each]) for each in ("model", "imitate", "players", "opponents", "hardware")}
        others = {"learner": plain(imitation_learner(self.config)), "seed": self.seed}
        return digest({"stage": name, **inputs, **nodes, **plainly, **others})

    def _borrow(self, sweep: Path, key: str, name: str, inputs: str) -> None:
        if (source := borrow(sweep, key, self.out / name, inputs)) is not None:
            self.progress.note(f"{name}: shared with job {source.relative_to(sweep.resolve()).parts[0]}")

    def recall(self, name: str) -> Any:
        """The outputs of a finished stage, or None."""
        if name not in self.done and (done := ranks.shared(lambda: finished(self.out / name))) is not None:
            self.done[name] = done
        return self.done[name].outputs if name in self.done else None

    def told(self, name: str) -> Any:
        """The outputs of a stage of play that a finished iteration was learned from. InputError if it is gone."""
        if (found := self.recall(name)) is None:
            learn = self.out / name.partition("/")[0] / "learn"
            raise InputError(
                f"{self.out / name} is gone, but the snapshots learned from it exist: restore it or remove {learn} too "
                "and resume, which plays it again"
            )
        return found

    def play(
        self,
        name: str,
        seatings: Iterable[Seating],
        look: Callable[[Matches], dict[str, Any]],
        sampling: Sampling | None = None,
        snapshots: Who | None = None,
        game: Game | None = None,
    ) -> dict[str, Any]:
        """Plays the owed matches of `seatings` into the folder `name`; returns rank 0's `look` at all its matches.

        Players are the game's scripts, a person, or the language models of `snapshots`, by name. `game` replaces the
        run's.
        """
        with self.seated(sampling or Sampling(), snapshots or {}, game) as sitting:
            matches = self.sit(sitting, name, seatings)
        return ranks.shared(lambda: look(matches))

    def seated(self, sampling: Sampling, snapshots: Who, game: Game | None = None) -> AbstractContextManager[Sitting]:
        """Players that stay loaded over several calls of `sit`: for the rounds of an iteration."""
        return (self.seats if game is None else replace(self.seats, game=game)).open(sampling, snapshots)

    def sit(self, sitting: Sitting, name: str, seatings: Iterable[Seating]) -> Matches:
        """Plays the owed matches of `seatings` into the folder `name`; returns all its matches."""
        sitting.play(self.out / name, seatings, self._watch(name))
        return self.episodes(name)

    def _watch(self, name: str) -> Watch:
        """A progress bar for the stage `name`; none if a person plays at the terminal."""

        @contextmanager
        def watch(matches: int, person: bool) -> Iterator[Callable[[Report], None]]:
            progress = Progress(terminal(quiet=True)) if person else self.progress
            with progress.stage(name, matches, "games") as bar:
                yield _advance(bar)

        return watch

    def versions(self, names: Iterable[str], snapshots: Who) -> dict[str, str]:
        """The versions of the language models among `names`: those of `snapshots`, and opponents from the config."""
        models = {name: each.snapshot for name, each in self.parts.opponents.items()} | dict(snapshots)
        return {name: models[name].version for name in names if name in models}

    @property
    def serving(self) -> dict[str, str]:
        """Players of services that the game does not play itself: service -> player, in every stage."""
        return self.cast.serving

    def served(self) -> dict[str, str]:
        """The same as a stage input: service -> version of its player."""
        return {service: self.versions([name], {}).get(name, name) for service, name in self.serving.items()}

    def episodes(self, name: str) -> Matches:
        """The stored matches of the stage `name`, by id."""
        return Matches(self.out / name)

    def outputs(self, name: str) -> Any:
        """The outputs of the finished stage `name`."""
        return self.done[name].outputs

    def cost(self) -> dict[str, float]:
        """Wall-clock and CPU seconds of the run so far: of these processes, and of earlier ones in stages."""
        wall, cpu = self.clock.spent()
        cpu = sum(ranks.gathered(cpu))
        earlier = [done.earlier for done in self.done.values()]
        wall, cpu = wall + sum(each[0] for each in earlier), cpu + sum(each[1] for each in earlier)
        return {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}

    def seconds(self, prefix: str) -> dict[str, float]:
        """Wall-clock seconds of the finished stages below the folder `prefix`, by the stage's name, with named parts
        of a stage apart (`play/handover`); an iteration's rounds are summed."""
        found: dict[str, float] = defaultdict(float)
        for name, done in self.done.items():
            if name.startswith(f"{prefix}/"):
                stage = _ROUND.sub("", name.removeprefix(f"{prefix}/"))
                found[stage] += done.seconds - sum(done.parts.values())
                for part, seconds in done.parts.items():
                    found[f"{stage}/{part}"] += seconds
        return {name: round(seconds, 2) for name, seconds in found.items()}


_ROUND = re.compile(r"/r\d+")


def cast_of(parts: Parts) -> Cast:
    """The cast in the config of `parts`."""
    players = {str(role): str(name) for role, name in plain(parts.config.players).items()}
    return Cast(
        parts.game, players, tuple(parts.policies), str(parts.config.eval.start_name), league=parts.league is not None
    )


def figures(episodes: Iterable[Episode], players: Iterable[str] | None = None) -> dict[str, Any]:
    """Every metric of the episodes with its interval, as JSON."""
    tally = Tally(players)
    for episode in episodes:
        tally.add(episode)
    return _told(tally)


def of_each(episodes: Iterable[Episode], players: Iterable[str]) -> dict[str, Any]:
    """The figures of each of `players`, by name."""
    tallies = {name: Tally([name]) for name in players}
    for episode in episodes:
        for tally in tallies.values():
            tally.add(episode)
    return {name: _told(tally) for name, tally in tallies.items()}


def _told(tally: Tally) -> dict[str, Any]:
    """The figures of `tally`, and derived ones."""
    return to_json(tally.figures() | clemscores(tally.columns))


def _advance(bar: Any) -> Callable[[Report], None]:
    """Turns the arena's running totals into a progress bar's increments."""
    last = [0, 0]

    def advance(report: Report) -> None:
        if report.matches > last[0] or report.tokens > last[1]:
            bar.advance(report.matches - last[0], tokens=report.tokens - last[1])
            last[:] = [report.matches, report.tokens]

    return advance
