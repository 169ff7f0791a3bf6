"""vLLM in a run: killed and resumed, and on one rank of a process group that was there before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parley.backends import vllm_engine
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.models.tiny import Tiny
from parley.system.files import InputError

try:
    vllm_engine.available()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.vllm

RUN = [
    "debug=fast", "backend=vllm", "backend.kv_gib=0.1", "play.scenarios=48", "play.group=2",
    "objective.credit.keep=all",
    "imitate.matches=200", "eval.opponents=[]", "model.width=64",
    "model.heads=2", "model.layers=1", "model.mlp=64",
]  # fmt: skip


def begin(run: Path) -> subprocess.Popen[str]:
    place = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    command = [sys.executable, "-m", "parley", *RUN, place]
    return subprocess.Popen(
        command, cwd=run.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_a_run_is_killed_in_play_and_resumed(tmp_path):
    run = tmp_path / "run"
    shard = run / "iter_001/play/0.jsonl"
    process = begin(run)
    while not (shard.exists() and shard.stat().st_size > 10_000):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    store = EpisodeStore(run / "iter_001/play", shard=None)
    before = {episode.id: episode for episode in store.read()}
    assert 0 < len(before) < 96 and not (run / "summary.json").exists()
    process = begin(run)
    told = process.communicate()[0]
    assert process.returncode == 0, told
    after = {episode.id: episode for episode in store.read()}
    assert len(after) == 96 and store.duplicates == 0 and (run / "summary.json").exists()
    assert all(after[match] == episode for match, episode in before.items())
    versions = {version for episode in after.values() for version in episode.policies.values()}
    assert len(versions - {""}) == 1  # a seat that was never asked has none


RANK = """
import os, sys
import torch
from torch import distributed
distributed.init_process_group("gloo")
from parley.system import ranks
from parley.models import snapshot
from parley.play.player import Prompt, Sampling
from parley.backends.vllm import VLLMBackend
made, rank = snapshot.of(sys.argv[1]), ranks.rank()
ids = ()
if rank == 0:  # the other rank has nothing to play, and must not be waited for
    backend = VLLMBackend(kv_gib=0.05, max_batch=8)
    backend.load(made)
    backend.submit([Prompt("m/s.1", "m/s", (), 5, sampling=Sampling(max_tokens=8), token_ids=(7, 8, 9))])
    while backend.busy:
        ids = [done.token_ids for done in backend.poll()] or ids
    backend.close()
ranks.barrier()
assert distributed.get_world_size() == 2 and distributed.get_rank() == rank
total = torch.ones(1) * (rank + 1)
distributed.all_reduce(total, group=distributed.new_group())
assert total == 3 and ranks.gathered(rank) == [0, 1]
if rank == 1:  # and now that one, after groups that both have made
    backend = VLLMBackend(kv_gib=0.05, max_batch=8)
    backend.load(made)
    backend.submit([Prompt("m/s.1", "m/s", (), 5, sampling=Sampling(max_tokens=8), token_ids=(7, 8, 9))])
    while backend.busy:
        ids = [done.token_ids for done in backend.poll()] or ids
found = ranks.gathered(ids)
assert found[0] and found[0] == found[1], found
print("rank", rank, "done", flush=True)
distributed.barrier()
os._exit(0)
"""


def test_one_rank_of_two_has_an_engine_and_the_group_stays_whole(tmp_path):
    made = Tiny(width=64, heads=2, layers=1, mlp=64).create(
        tmp_path / "tiny", [[Message("user", "one two three four five")]], 0
    )
    (tmp_path / "rank.py").write_text(RANK)
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(29000 + os.getpid() % 2000),
    }
    command = [sys.executable, str(tmp_path / "rank.py"), made.path]
    started = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    assert all(f"rank {rank} done" in text for rank, text in enumerate(told))
