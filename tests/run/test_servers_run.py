"""A run on two servers: killed and resumed, then a server lost, and every reply is of the version that it must be."""

import sys
from pathlib import Path

import pytest
from parley.games.taboo import Taboo
from parley.models.tiny import Tiny

pytest.importorskip("openai")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import show_servers

from vllm_server import FakeVLLM


@pytest.mark.slow
def test_killed_resumed_and_one_server_lost(tmp_path):
    game = Taboo(prompt="compact")
    chats = [request.messages for each in game.scenarios("train") for request in game.match(each, 0).start()]
    base = Tiny(width=32, heads=2, layers=1, mlp=64, context=256).create(tmp_path / "base", chats, 0)
    servers = [FakeVLLM(base.path) for _ in range(2)]

    def lose() -> None:
        servers[0].faults += ["half"] * 100_000

    small = [
        "game=taboo_tiny", "game.turns=2", "metric=sampled.turns", "play.sampling.max_tokens=6", "eval.scenarios=1",
        "eval.greedy=1", "eval.validation=1",
    ]  # fmt: skip
    command = show_servers.settings(base.path, [each.url for each in servers], 8, small)
    found = show_servers.played(tmp_path, command, base.path, lose, 1_000)
    for each in servers:
        each.close()
    assert found["holds"], found
    assert found["killed"] != 0 and found["resumed"] == 0
