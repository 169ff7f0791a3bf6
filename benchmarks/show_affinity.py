"""What a server finds in its prefix cache: streams that stay with one server, against turns dealt at random.

    python benchmarks/show_affinity.py [snapshot folder] [--matches 48]

Deal in self-play through the real client of `backend=vllm_servers`, on 1, 2 and 8 servers of the tests on loopback.
They count as vLLM does: whole blocks of tokens, of prompts and replies alike; their caches forget nothing. A tiny model
has learnt from scripts; each reply is sampled once and remembered, so all set-ups play the same matches. Play seeds 0,
1 and 2. Exits with 1 where streams that stay find no more than random dealing does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from parley.backends.hf import HFBackend
from parley.backends.servers import Place, VLLMServers
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer
from results import ROOT, record
from show_batch import imitated

sys.path.insert(0, str(ROOT / "tests"))

from vllm_server import FakeVLLM

SERVERS, BLOCKS, SEEDS = (1, 2, 8), (4, 16), (0, 1, 2)  # vLLM's blocks have 16 tokens unless told otherwise
GAME = Deal(max_actions=12)


class Remembering(HFBackend):
    """Samples what was never asked before: a prompt and its seed decide the reply."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, Completion] = {}
        self.asked: list[Prompt] = []

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.asked += prompts
        super().submit([prompt for prompt in prompts if _key(prompt) not in self.known])

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        if _key(self.asked[0]) not in self.known:
            if not (done := super().poll(wait_s)):
                return []
            self.known[_key(self.asked[0])] = done[0]
        prompt = self.asked.pop(0)
        return [replace(self.known[_key(prompt)], id=prompt.id)]


def _key(prompt: Prompt) -> Any:
    return prompt.policy, prompt.seed, prompt.token_ids


class Dealt(VLLMServers):
    """Every turn goes to any server, whatever its stream."""

    chance = Random(0)

    async def _place(self, stream: str) -> Place:
        return self.chance.choice(self.places)


def played(kind: type[VLLMServers], servers: Sequence[FakeVLLM], made: Snapshot, matches: int, seed: int) -> float:
    """The share of all prompt tokens that the servers had in their caches."""
    backend = kind(urls=[each.url for each in servers])
    backend.load(made)
    player = LanguagePlayer(backend, Renderer.load(made.path), made.version, Sampling(temperature=0.7), "m")
    seatings = self_play(GAME, GAME.scenarios("train")[:matches], "m", seed, "play")
    report = Arena(GAME, {"m": player}, in_flight=32).play(seatings, lambda _: None)
    backend.close()
    assert report.matches == matches and not report.failures
    return backend.cached_tokens / backend.prompt_tokens


def compared(engine: HFBackend, made: Snapshot, count: int, block: int, matches: int) -> dict[str, Any]:
    """Both ways on `count` servers with empty caches, for each seed."""
    row: dict[str, Any] = {"servers": count, "block_tokens": block}
    for name, kind in (("streams_stay", VLLMServers), ("dealt_at_random", Dealt)):
        shares, busiest = [], []
        for seed in SEEDS:
            servers = [FakeVLLM(made.path, engine=engine, block=block) for _ in range(count)]
            shares.append(round(played(kind, servers, made, matches, seed), 3))
            asked = [len(each.prompts) for each in servers]
            busiest.append(round(max(asked) * count / sum(asked), 2))
            for each in servers:
                each.close()
        row[name] = {"cached_share": shares, "busiest_server_times_the_mean": busiest}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--matches", type=int, default=48, help="for each seed")
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made, engine, rows = snapshot.of(given.folder or imitated(scratch), "m"), Remembering(), []
        for block in BLOCKS:
            for count in SERVERS:
                rows.append(compared(engine, made, count, block, given.matches))
                print(rows[-1], flush=True)
    if not given.no_record:
        record("affinity", {"matches": given.matches, "seeds": SEEDS, "rows": rows})
    sys.exit(0 if all(_holds(row) for row in rows) else 1)


def _holds(row: dict[str, Any]) -> bool:
    stay, dealt = (row[name]["cached_share"] for name in ("streams_stay", "dealt_at_random"))
    return row["servers"] == 1 or all(one > other for one, other in zip(stay, dealt, strict=True))


if __name__ == "__main__":
    main()
