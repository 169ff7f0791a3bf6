"""A watcher's first page and searches among 100,000 matches and among 1,000, for show_table.py.

The same ten runs, with 100 or with 10,000 matches each, are served by two servers at the same time, which are asked in
turn. A match is one of 500 that scripts played, under an id of its own.
"""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from parley.data.store import EpisodeStore, encode
from parley.games.deal import Deal
from parley.run.match import play_match

SIZES = {"small": 1_000, "large": 100_000}
RUNS, PLAYED, TIMES, RESAMPLES = 10, 500, 60, 2_000
BAR = 2.0
CONFIG = "name: {name}\nseed: 0\niterations: 1\ntask: {{_target_: parley.cli.tasks.training.selfplay}}\n"
QUESTIONS = {
    "first page": ["", "runs", "matches"],
    "outcome": ["matches?outcome=mismatch"],
    "metric": ["matches?metric=joint_score&least=5&most=12"],
    "outcome and metric": ["matches?outcome=agreement&metric=joint_score&least=5&most=12"],
    "rare": ["matches?outcome=agreement&metric=joint_score&most=4"],
    "one run": ["matches?run={run}&outcome=agreement&metric=turns&least=4"],
}


def stored(folder: Path, matches: int) -> None:
    """Writes the runs below `folder`."""
    game, names = Deal(), ["naive", "fair", "skilled"]
    scenarios = game.scenarios("train")
    base = [
        play_match(game, {"first": names[at % 3], "second": names[at // 3 % 3]}, scenarios[at], seed=at)
        for at in range(PLAYED)
    ]
    for run in range(RUNS):
        out = folder / f"run{run}" / "2026-01-01_00-00-00"
        out.mkdir(parents=True)
        (out / "config.yaml").write_text(CONFIG.format(name=f"run{run}"))
        with EpisodeStore(out / "iter_001/play"):
            pass
        with open(out / "iter_001/play/0.jsonl", "wb") as file:
            for at in range(matches // RUNS):
                file.write(encode(replace(base[(at + 50 * run) % PLAYED], id=f"iter_001/play/s{run}/{at}")))


class Watcher:
    """Who watches a server."""

    def __init__(self, table: Any) -> None:
        self.table, self.link = table, table.watchers

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(self.link + path) as answer:
            return answer.read()

    def read(self) -> dict[str, float]:
        """Waits until all matches are in the indexes; what that took."""
        began = time.monotonic()
        while left := json.loads(self.ask("matches"))["left_mb"]:
            print(f"{left} MB are to be read", flush=True)
        return {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(self._cpu(), 1)}

    def took(self, paths: list[str]) -> float:
        """Seconds for these answers, one after the other."""
        began = time.perf_counter()
        for path in paths:
            assert self.ask(path)
        return time.perf_counter() - began

    def memory(self) -> float:
        """The server's peak resident set so far, in MiB."""
        lines = Path(f"/proc/{self.table.process.pid}/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.table.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def ratio(small: list[float], large: list[float], chance: Random) -> dict[str, Any]:
    """The ratio of the medians, with a bootstrap interval over the pairs."""
    pairs = list(zip(small, large, strict=True))
    drawn = []
    for _ in range(RESAMPLES):
        some = chance.choices(pairs, k=len(pairs))
        drawn.append(median(each[1] for each in some) / median(each[0] for each in some))
    drawn.sort()
    return {
        "small_ms": round(1000 * median(small), 2),
        "large_ms": round(1000 * median(large), 2),
        "ratio": round(median(large) / median(small), 2),
        "interval": [round(drawn[int(share * RESAMPLES)], 2) for share in (0.025, 0.975)],
    }


def search(table: Any, run: Path, folder: Path) -> dict[str, Any]:
    """The part `search`: `table` starts a server of `run`."""
    servers = {}
    for name, matches in SIZES.items():
        if not (folder / name).exists():
            stored(folder / name, matches)
        words = (f"table.watched=[{folder / name}]", "table.per_minute=1000000", "~table.parts.play")
        served = folder / f"served-{name}"
        served.mkdir(exist_ok=True)
        (served / "config.yaml").write_text((run / "config.yaml").read_text())
        servers[name] = Watcher(table(served, *words))
    started = {name: each.memory() for name, each in servers.items()}
    read = {name: each.read() for name, each in servers.items()}
    keys = {name: json.loads(each.ask("runs"))[0]["key"] for name, each in servers.items()}
    found, chance = {}, Random(0)
    for question, paths in QUESTIONS.items():
        times: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(TIMES):
            for name, each in servers.items():
                times[name].append(each.took([path.format(run=keys[name]) for path in paths]))
        found[question] = ratio(times["small"], times["large"], chance)
    memory = {name: {"started_mib": started[name], "peak_mib": each.memory()} for name, each in servers.items()}
    for each in servers.values():
        each.table.stop()
    slow = [f"{name}: {each['ratio']} times as long" for name, each in found.items() if each["ratio"] > BAR]
    return {"matches": SIZES, "runs": RUNS, "times": TIMES, "read": read, "memory": memory, **found, "wrong": slow}
