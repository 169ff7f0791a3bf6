"""vLLM in a run: killed and resumed, and on one rank of a process group that was there before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from parley.backends import vllm_engine
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.models import snapshot
from parley.models.adapter import Adapter, LoRA
from parley.models.load import load_policy, load_tokenizer
from parley.models.snapshot import Snapshot
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


SHARED = ["hardware=cpu_x2", "backend.tensor_parallel=2"]  # both ranks play all matches, and the first stores them


def begin(run: Path, more: list[str]) -> subprocess.Popen[str]:
    place = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    command = [sys.executable, "-m", "parley", *RUN, *more, place]
    return subprocess.Popen(
        command, cwd=run.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.parametrize("more", [[], SHARED], ids=["alone", "shared"])
def test_a_run_is_killed_in_play_and_resumed(tmp_path, more):
    run = tmp_path / "run"
    shard = run / "iter_001/play/0.jsonl"
    process = begin(run, more)
    while not (shard.exists() and shard.stat().st_size > 10_000):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    store = EpisodeStore(run / "iter_001/play", shard=None)
    before = {episode.id: episode for episode in store.read()}
    assert 0 < len(before) < 96 and not (run / "summary.json").exists()
    process = begin(run, more)
    told = process.communicate()[0]
    assert process.returncode == 0, told
    after = {episode.id: episode for episode in store.read()}
    assert len(after) == 96 and store.duplicates == 0 and (run / "summary.json").exists()
    assert all(after[match] == episode for match, episode in before.items())
    versions = {version for episode in after.values() for version in episode.policies.values()}
    assert len(versions - {""}) == 1  # a seat that was never asked has none
    assert not (run / "iter_001/play/1.jsonl").exists() or (run / "iter_001/play/1.jsonl").stat().st_size == 0


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
    told = ranked(tmp_path, RANK, 2, made.path)
    assert all(f"rank {rank} done" in text for rank, text in enumerate(told))


def ranked(folder: Path, script: str, world: int, *arguments: str) -> list[str]:
    """What so many ranks that run a script have printed; each must end well."""
    (folder / "rank.py").write_text(script)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, str(folder / "rank.py"), *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    told = [process.communicate()[0] for process in started]
    assert {process.returncode for process in started} == {0}, "\n".join(told)
    return told


TOGETHER = """
import json, os, sys
from pathlib import Path
from torch import distributed
if (world := int(os.environ["WORLD_SIZE"])) > 1:
    distributed.init_process_group("gloo")
from parley.system import ranks
from parley.models import snapshot
from parley.models.load import load_model
from parley.play.player import Prompt, Sampling
from parley.backends.vllm import VLLMBackend
base, adapter = snapshot.of(sys.argv[1], "base"), snapshot.of(sys.argv[2], "adapter", sys.argv[1])
backend = VLLMBackend(kv_gib=0.05, max_batch=8, tensor_parallel=world)
def answers(version, temperature):
    sampling = Sampling(temperature=temperature, max_tokens=8)
    backend.submit([
        Prompt(f"m{at}/s.{temperature}", f"m{at}/s", (), at, policy=version, sampling=sampling,
               token_ids=tuple(7 + at * each % 5 for each in range(1, 4 + at)))
        for at in range(4)
    ])
    found = {}
    while backend.busy:
        found |= {each.id: (each.token_ids, each.logprobs) for each in backend.poll()}
    return found
backend.load(base)
backend.load(adapter)
told = {
    f"{name} {heat}": answers(made.version, heat)
    for name, made in (("base", base), ("adapter", adapter)) for heat in (0.0, 1.0)
}
backend.unload(adapter.version)
backend.update(base.version, "new", list(load_model(sys.argv[3]).named_parameters()))
told["new 0.0"] = answers("new", 0.0)
assert ranks.gathered(told) == [told] * world  # to the last digit
if ranks.rank() == 0:
    Path(sys.argv[4]).write_text(json.dumps(told))
ranks.barrier()
sys.stdout.flush()
os._exit(0)
"""


def test_two_ranks_share_an_engine_and_reply_as_one_process_does(tmp_path):
    """Base, adapter and weights that came while it was at work."""
    chats = [[Message("user", "one two three four five six seven eight")]]
    base, other = (
        Tiny(width=64, heads=2, layers=2, mlp=64).create(tmp_path / f"tiny{seed}", chats, seed) for seed in (0, 5)
    )
    made = moved(base, tmp_path)
    found = []
    for world in (1, 2):
        out = tmp_path / f"{world}.json"
        ranked(tmp_path, TOGETHER, world, base.path, made, other.path, str(out))
        found.append(json.loads(out.read_text()))
    greedy = [{key: each[key] for key in each if key.endswith("0.0")} for each in found]
    assert len(greedy[0]) == 3 and len({json.dumps(each["m3/s.0.0"]) for each in greedy[0].values()}) == 3
    for key, replies in greedy[0].items():
        for name, (ids, logprobs) in replies.items():
            assert greedy[1][key][name][0] == ids, (key, name)
            assert greedy[1][key][name][1] == pytest.approx(logprobs, abs=1e-4)


def moved(base: Snapshot, folder: Path) -> str:
    """The folder of an adapter that is not the identity."""
    policy = load_policy(LoRA(r=4).create(base, folder / "fresh", 1), trainable=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    return snapshot.save(Adapter.of(policy), load_tokenizer(base.path), folder / "adapter", "a", base.path).path
