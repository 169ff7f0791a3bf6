"""The same matches with backend.max_batch=1 and =64: identical token ids, and how much faster 64 is.

    python benchmarks/show_batch.py [snapshot folder]

Without a folder a tiny model is made and imitates for a minute first. CPU-seconds of play alone, one thread.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import torch
from parley.backends.hf import HFBackend
from parley.data.episode import Episode
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.renderer import Renderer
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Sampling
from parley.play.players import LanguagePlayer
from results import record

TOKENS = 20_000


def imitated(folder: str) -> str:
    command = [sys.executable, "-m", "parley", "task=imitate", "imitate.matches=2000", f"hydra.run.dir={folder}/run"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return f"{folder}/run/iter_000/start/snapshot"


def play(path: str, matches: int, max_batch: int) -> tuple[dict[str, tuple[int, ...]], float, HFBackend]:
    """(match and request -> sampled ids, CPU-seconds, the backend with its counters)"""
    game, made = Deal(max_actions=12), snapshot.of(path, "start")
    backend = HFBackend(max_batch=max_batch)
    backend.load(made)
    player = LanguagePlayer(backend, Renderer.load(path), made.version, Sampling(temperature=0.7), "learner")
    episodes: list[Episode] = []
    began = time.process_time()
    seatings = self_play(game, game.scenarios("train")[:matches], "learner", 0, "batch")
    Arena(game, {"learner": player}, in_flight=256).play(seatings, episodes.append)
    spent = time.process_time() - began
    ids = {f"{each.id}/{turn.request}": turn.call.sampled_ids for each in episodes for turn in each.turns if turn.call}
    return ids, spent, backend


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[1] if len(sys.argv) > 1 else imitated(folder)
        one, slow, backend_1 = play(path, 320, 1)
        many, fast, backend_64 = play(path, 320, 64)
    tokens = sum(map(len, one.values()))
    figures = {
        "sampled_tokens": tokens,
        "identical": one == many,
        "settled": {"1": backend_1.settled, "64": backend_64.settled},
        "tokens_per_cpu_second": {"1": round(tokens / slow), "64": round(tokens / fast)},
        "ratio": round(slow / fast, 2),
    }
    print(figures)
    record("batch", figures)
    sys.exit(0 if one == many and tokens >= TOKENS and slow / fast >= 5 else 1)


if __name__ == "__main__":
    main()
