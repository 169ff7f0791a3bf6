"""An experiment at work: the parts it is composed of, and the stages of its run directory.

Here it is said how a stage is done and how matches are played into one; which stages there are is the loop's, and
evaluation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ..data.episode import Episode
from ..data.store import Matches
from ..play.arena import Report
from ..play.pairing import Seating
from ..play.player import Sampling
from ..play.seats import Seats, Watch, Who
from ..report.estimates import summarise, to_json
from ..report.progress import Progress
from ..system import ranks
from ..system.files import digest
from .parts import Parts, plain
from .stages import Clock, Done, stage


class Run:
    """The stages of one run directory. Each may be done again: what is finished is skipped."""

    def __init__(self, parts: Parts, out: Path, progress: Progress) -> None:
        self.parts, self.config, self.game = parts, parts.config, parts.game
        self.out, self.progress = out, progress
        self.seed = int(parts.config.seed)
        self.seats = Seats(self.game, parts.backend, self.config.play.in_flight, parts.opponents)
        self.done: dict[str, Done] = {}
        self.clock = Clock()
        self._nodes: dict[str, Any] = {}

    def node(self, name: str) -> Any:
        """The config node `name` as an input of stages, with digests of what it reads where the part that it builds has
        `files` (name -> path), so that a file that was changed is not taken for what it was. (Rank 0's inputs
        count.)"""
        if name not in self._nodes:
            files = getattr(getattr(self.parts, name), "files", {}) if ranks.rank() == 0 else {}
            content = {key: digest(Path(path)) for key, path in files.items()}
            self._nodes[name] = (
                {**plain(self.config[name]), "content": content} if content else plain(self.config[name])
            )
        return self._nodes[name]

    def stage(self, name: str, inputs: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """Does the stage `name` unless it is finished; gives back what it gave."""
        done = stage(self.out / name, inputs, work)
        self.done.setdefault(name, done)
        return done.outputs

    def play(
        self,
        name: str,
        seatings: Iterable[Seating],
        look: Callable[[Matches], dict[str, Any]],
        sampling: Sampling | None = None,
        snapshots: Who | None = None,
    ) -> dict[str, Any]:
        """Plays what is owed of `seatings` into the folder `name`; gives back what rank 0 sees when it looks at all its
        episodes.

        Players are the game's scripts, a person, or the language models of `snapshots`, by name.
        """
        self.seats.play(self.out / name, seatings, sampling or Sampling(), snapshots or {}, self._watch(name))
        return ranks.shared(lambda: look(self.episodes(name)))

    def _watch(self, name: str) -> Watch:
        """A progress bar for the stage `name`; a person has the terminal to themselves."""

        @contextmanager
        def watch(matches: int, person: bool) -> Iterator[Callable[[Report], None]]:
            progress = Progress(Console(quiet=True)) if person else self.progress
            with progress.stage(name, matches, "games") as bar:
                yield _advance(bar)

        return watch

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """The versions of those of `names` that are opponents from the config."""
        return {name: self.parts.opponents[name].snapshot.version for name in names if name in self.parts.opponents}

    def episodes(self, name: str) -> Matches:
        """The stored matches of the stage `name`, by id."""
        return Matches(self.out / name)

    def outputs(self, name: str) -> Any:
        """What the finished stage `name` gave."""
        return self.done[name].outputs

    def cost(self) -> dict[str, float]:
        """Wall and CPU seconds of the run so far: of these processes, and what earlier ones spent on stages."""
        wall, cpu = self.clock.spent()
        cpu = sum(ranks.gathered(cpu))
        earlier = [done.earlier for done in self.done.values()]
        wall, cpu = wall + sum(each[0] for each in earlier), cpu + sum(each[1] for each in earlier)
        return {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}

    def seconds(self, prefix: str) -> dict[str, float]:
        """Wall seconds of the finished stages below the folder `prefix`, by the stage's name."""
        mine = {name: done for name, done in self.done.items() if name.startswith(f"{prefix}/")}
        return {name.removeprefix(f"{prefix}/"): round(done.seconds, 2) for name, done in mine.items()}


def figures(episodes: Iterable[Episode], players: Iterable[str] | None = None) -> dict[str, Any]:
    """Every metric of the episodes with its interval, as JSON."""
    return to_json(summarise(episodes, players))


def _advance(bar: Any) -> Callable[[Report], None]:
    """Turns the arena's running totals into a progress bar's increments."""
    last = [0, 0]

    def advance(report: Report) -> None:
        if report.matches > last[0] or report.tokens > last[1]:
            bar.advance(report.matches - last[0], tokens=report.tokens - last[1])
            last[:] = [report.matches, report.tokens]

    return advance
