"""Where one arena bends: recorded matches through the real arena against simulated engines, 1 to 1,024 of them.

    python benchmarks/simulate.py [snapshot folder] [--engines 1 4 16 64 256 1024] [--slots 16] [--no-record]

A tiny model plays Deal first; its replies are kept, and its engine's service times are fitted from the steps: so much
for a step, for a row that decodes, for a token that is read. Then game, rendering and arena do all of their real work,
whose CPU-seconds are counted, while simulated engines give the recorded replies in virtual time. The arena is one
thread: what it takes delays what it asks next. With one engine the engine's share of the time must be within 5 points
of what was measured with the real one. Then engines are added, each with `--slots` matches in flight: alike, and with
replies of which a quarter is four times as long, a tenth of the engines four times as slow and a tenth dying half-way,
whose prompts are asked again elsewhere.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import torch
from parley.backends.hf import HFBackend
from parley.data.episode import Episode
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.play.arena import Arena
from parley.play.pairing import Seating, self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer
from results import record
from show_batch import imitated

GAME, SAMPLING = Deal(max_actions=12), Sampling(temperature=0.7)
WITHIN = 0.05  # of the measured share


@dataclass(frozen=True)
class Service:
    """Seconds of an engine: of a step, of a row that decodes in it, of a prompt token that is read."""

    step: float
    row: float
    read: float


@dataclass(frozen=True)
class Trace:
    """What was recorded: seatings, the reply to each prompt with the tokens that were read for it, service times, and
    the share of the engine in all CPU-seconds of play."""

    seatings: tuple[Seating, ...]
    replies: dict[str, tuple[int, Completion]]
    service: Service
    share: float


class Timed:
    """A real backend: what it answers, and how long its steps take."""

    def __init__(self, backend: HFBackend) -> None:
        self.backend, self.seconds = backend, 0.0
        self.steps: list[tuple[int, int, float]] = []  # rows that decoded, tokens that were read, seconds
        self.replies: dict[str, Completion] = {}
        self.load, self.cancel, self.close, self.forget = backend.load, backend.cancel, backend.close, backend.forget

    @property
    def busy(self) -> bool:
        return self.backend.busy

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.backend.submit(prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        read, sampled, began = self.backend.read, self.backend.sampled, time.process_time()
        done = self.backend.poll(wait_s)
        seconds, fresh = time.process_time() - began, self.backend.read - read
        self.steps.append((0 if fresh else self.backend.sampled - sampled, fresh, seconds))
        self.seconds += seconds
        self.replies |= {each.id: each for each in done}
        return done


def recorded(made: Snapshot, matches: int, in_flight: int) -> Trace:
    """Plays, and keeps what is needed to play it again."""
    seatings, backend, episodes = tuple(planned(matches)), Timed(HFBackend()), list[Episode]()
    backend.load(made)
    began = time.process_time()
    Arena(GAME, {"m": player(backend, made)}, in_flight).play(seatings, episodes.append)
    share = backend.seconds / (time.process_time() - began)
    read = {
        f"{each.id}/{turn.request}": len(turn.call.prompt_ids) for each in episodes for turn in each.turns if turn.call
    }
    replies = {name: (read.get(name, 1), done) for name, done in backend.replies.items()}
    return Trace(seatings, replies, fitted(backend.steps), share)


def planned(matches: int) -> Iterator[Seating]:
    scenarios = GAME.scenarios("train")
    return iter(self_play(GAME, [scenarios[at % len(scenarios)] for at in range(matches)], "m", 0, "play"))


def player(backend: Any, made: Snapshot) -> LanguagePlayer:
    return LanguagePlayer(backend, Renderer.load(made.path), made.version, SAMPLING, "m")


def fitted(steps: Sequence[tuple[int, int, float]]) -> Service:
    """Least squares; no time is negative."""
    terms = np.array([(1.0, rows, read) for rows, read, _ in steps])
    found, *_ = np.linalg.lstsq(terms, np.array([seconds for *_, seconds in steps]), rcond=None)
    step, row, read = (max(float(value), 0.0) for value in found)
    return Service(step, row, read)


# --- simulated engines ---


@dataclass
class Engine:
    """`slots` rows decode at once; what waits is read first. From `dies_at` on, in virtual seconds, it is gone."""

    service: Service
    slots: int
    pace: float = 1.0  # its times are multiplied by this
    dies_at: float = float("inf")
    now: float = 0.0
    spent: float = 0.0
    waiting: list[tuple[str, int, int]] = field(default_factory=list)  # prompt, tokens to read, tokens to write
    rows: dict[str, int] = field(default_factory=dict)  # prompt -> tokens that are still to come

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.rows)

    def step(self) -> list[str]:
        """One step; the prompts that are done."""
        room = self.slots - len(self.rows)
        taken, self.waiting = self.waiting[:room], self.waiting[room:]
        self.rows |= {name: written for name, _, written in taken}
        moving = [name for name, *_ in taken] or list(self.rows)
        read = sum(each for _, each, _ in taken)
        cost = self.service.step + self.service.read * read + self.service.row * (0 if taken else len(moving))
        self.now, self.spent = self.now + cost * self.pace, self.spent + cost * self.pace
        for name in moving:
            self.rows[name] -= 1
        done = [name for name in moving if self.rows[name] <= 0]
        for name in done:
            del self.rows[name]
        return done


class Simulated:
    """Engines as a backend, in virtual time. `clock` is the arena's, which works on one thing after the other; its own
    CPU-seconds are in `arena`."""

    busy = True

    def __init__(self, engines: Sequence[Engine], trace: Trace, long: Random | None) -> None:
        self.engines, self.trace, self.long = list(engines), trace, long
        self.homes: dict[str, int] = {}
        self.streams: dict[str, tuple[str, int, int]] = {}  # open prompt -> stream, tokens to read and to write
        self.events: list[tuple[float, int]] = []
        self.clock = self.arena = 0.0
        self.moved = 0
        self.left = time.process_time()

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self._enter()
        for prompt in prompts:
            read, done = self.trace.replies[_original(prompt.id)]
            times = 4 if self.long is not None and self.long.random() < 0.25 else 1
            self.streams[prompt.id] = prompt.stream, read, len(done.token_ids or ()) * times
            self._send(prompt.id)
        self.left = time.process_time()

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """One step of the engine that is next in virtual time."""
        self._enter()
        now, number = heapq.heappop(self.events)
        engine, found = self.engines[number], []
        if now >= engine.dies_at:
            lost = [*engine.rows, *(name for name, *_ in engine.waiting)]
            engine.rows, engine.waiting = {}, []
            self.clock = max(self.clock, now)
            for name in lost:
                self._send(name)
        else:
            for name in engine.step():
                del self.streams[name]
                found.append(replace(self.trace.replies[_original(name)][1], id=name))
            if engine.load:
                heapq.heappush(self.events, (engine.now, number))
            if found:
                self.clock = max(self.clock, engine.now)
        self.left = time.process_time()
        return found

    def _enter(self) -> None:
        """Books what the arena has worked since."""
        spent = time.process_time() - self.left
        self.arena, self.clock = self.arena + spent, self.clock + spent

    def _send(self, name: str) -> None:
        """To the stream's engine, or where that is gone or it has none to the less busy of two."""
        stream, read, written = self.streams[name]
        home = self.homes.get(stream)
        if home is None or self.engines[home].dies_at <= self.clock:
            self.moved += home is not None
            alive = [
                number for number in (CHANCE.randrange(len(self.engines)) for _ in range(8)) if self._alive(number)
            ]
            pair = alive[:2] or [next(number for number in range(len(self.engines)) if self._alive(number))]
            home = self.homes[stream] = min(pair, key=lambda number: self.engines[number].load)
        engine = self.engines[home]
        if not engine.load:
            engine.now = max(engine.now, self.clock)
            heapq.heappush(self.events, (engine.now, home))
        engine.waiting.append((name, read, written))

    def _alive(self, number: int) -> bool:
        return self.engines[number].dies_at > self.clock

    def load(self, made: Snapshot) -> None: ...

    def cancel(self, ids: Sequence[str]) -> None: ...

    def forget(self, streams: Sequence[str]) -> None:
        for stream in streams:
            self.homes.pop(stream, None)

    def close(self) -> None: ...


CHANCE = Random(0)


def _original(prompt: str) -> str:
    """The prompt of the recorded match of which this is one of many copies."""
    return prompt.partition("|")[2] or prompt


def copies(trace: Trace, matches: int) -> Iterator[Seating]:
    """As many matches as are wanted, each under an id of its own."""
    for at in range(matches):
        seating = trace.seatings[at % len(trace.seatings)]
        yield replace(seating, match=f"{at}|{seating.match}")


def simulated(
    made: Snapshot, trace: Trace, count: int, slots: int, matches: int, rough: bool = False
) -> dict[str, Any]:
    """`count` engines; `rough`: unequal lengths, slow and dying ones."""
    engines = [Engine(trace.service, slots) for _ in range(count)]
    if rough:
        for at, engine in enumerate(engines[1:], 1):
            engine.pace, engine.dies_at = (4.0 if at % 10 == 1 else 1.0), (0.5 if at % 10 == 2 else float("inf"))
    backend = Simulated(engines, trace, Random(0) if rough else None)
    ended: list[int] = []
    report = Arena(GAME, {"m": player(backend, made)}, count * slots).play(
        copies(trace, matches), lambda episode: ended.append(len(episode.turns))
    )
    assert report.matches == matches == len(ended) and not report.failures
    spent = sum(engine.spent for engine in engines)
    return {
        "engines": count, "matches": matches, "turns": report.turns, "moved_streams": backend.moved,
        "engines_at_work": round(spent / (count * backend.clock), 3),
        "engine_share": round(spent / (spent + backend.arena), 3),
        "arena_at_work": round(backend.arena / backend.clock, 3),
        "arena_cpu_seconds_per_1000_turns": round(1000 * backend.arena / report.turns, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--slots", type=int, default=16, help="matches in flight for each engine")
    parser.add_argument("--most", type=int, default=16_384, help="matches; there are two for each that is in flight")
    parser.add_argument("--recorded", type=int, default=256, help="matches that are played for real")
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = snapshot.of(given.folder or imitated(scratch), "m")
        trace = recorded(made, given.recorded, given.slots)
        one = simulated(made, trace, 1, given.slots, given.recorded)
        apart = abs(one["engine_share"] - trace.share)
        print(f"engine's share: measured {trace.share:.3f}, simulated {one['engine_share']:.3f}; {trace.service}")
        rows = []
        for count in given.engines:
            for rough in (False, True):
                matches = min(2 * count * given.slots, given.most)
                row = {"rough": rough, **simulated(made, trace, count, given.slots, matches, rough)}
                rows.append(row)
                print(row, flush=True)
    if not given.no_record:
        times = {"step": trace.service.step, "row": trace.service.row, "read": trace.service.read}
        shares = {"measured": round(trace.share, 3), "simulated": one["engine_share"]}
        record("simulate", {"slots": given.slots, "service_seconds": times, "engine_share": shares, "rows": rows})
    sys.exit(0 if apart <= WITHIN else 1)


if __name__ == "__main__":
    main()
