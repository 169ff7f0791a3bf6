"""How fast SmolLM2-135M-Instruct plays Deal on a CPU, by the transformers backend and by vLLM.

    python benchmarks/show_smollm_speed.py FOLDER VLLM      # after show_smollm.py FOLDER; VLLM: .venv-vllm/bin/python

The imitated snapshot of FOLDER plays itself with full prompts. Each backend plays 8 and 24 scenarios, two matches each,
16 in flight: what the 32 matches more cost is the play itself, without loading and compiling. Three interleaved
repetitions. Writes docs/results/smollm_speed.json after each: sampled tokens a CPU-second, minimum, median, maximum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from parley.data.store import EpisodeStore
from parley.models.snapshot import Snapshot
from parley.run.contents import all_snapshots
from results import record

REPEATS, SIZES = 3, (8, 24)
WORDS = [
    "task=play", "experiment=deal_llm", "game=deal_short", "game.prompt=full", "game.retries=2", "hardware=cpu",
    "adapter=none", "model=hf", "play.group=2", "play.in_flight=16", "play.sampling.max_tokens=40", "seed=1",
]  # fmt: skip


def tokens(run: Path) -> int:
    """Sampled tokens of all matches in a folder."""
    found = 0
    for manifest in run.rglob("stage.json"):
        for episode in EpisodeStore(manifest.parent, shard=None).read():
            found += sum(len(turn.call.sampled_ids) for turn in episode.turns if turn.call)
    return found


def cost(python: str, backend: str, model: str, scenarios: int, out: Path) -> tuple[int, float]:
    """(sampled tokens, CPU-seconds) of one process that plays `scenarios`."""
    shutil.rmtree(out, ignore_errors=True)
    before = os.times()
    words = [*WORDS, f"backend={backend}", f"model.path={model}", f"play.scenarios={scenarios}"]
    subprocess.run([python, "-m", "parley", *words, f"hydra.run.dir={out}"], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return tokens(out), used


def rate(python: str, backend: str, model: str, out: Path) -> float:
    """Sampled tokens a CPU-second of the matches that the larger size has more."""
    (few, start), (many, end) = (cost(python, backend, model, size, out) for size in SIZES)
    return (many - few) / (end - start)


def spread(rates: list[float]) -> dict[str, float]:
    found = sorted(rates)
    return {
        "minimum": round(found[0], 1), "median": round(found[len(found) // 2], 1), "maximum": round(found[-1], 1),
        "repetitions": len(found),
    }  # fmt: skip


def main(folder: Path, vllm: str) -> None:
    del sys.argv[1:]  # results name no folder of this machine
    snapshot: Snapshot = next(iter(all_snapshots(folder / "trained")[0].values()))
    found: dict[str, list[float]] = {"hf": [], "vllm": []}
    for repeat in range(REPEATS):
        for backend, python in (("hf", sys.executable), ("vllm", vllm)):
            found[backend].append(rate(python, backend, snapshot.path, folder / "speed"))
            print(
                f"repetition {repeat + 1}, {backend}: {found[backend][-1]:.1f} sampled tokens a CPU-second", flush=True
            )
        record("smollm_speed", {"sampled_tokens_a_cpu_second": {name: spread(each) for name, each in found.items()}})


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
