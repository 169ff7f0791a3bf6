"""Two processes against one, replicated (cpu_x2) and sharded (cpu_x2_fsdp), with all weights, LoRA and QLoRA; and ranks
killed.

    python benchmarks/show_ranks.py [none lora qlora] [cpu_x2 cpu_x2_fsdp] [overrides...]

The default experiment's imitation gives the start, once. A run on one process goes on from it, and so do copies of that
run, with two, which hold no more than the start. Shown are: the same token ids in the first play stage, the losses of
all steps of the first iteration (at least 20), final figures whose intervals overlap, and, with one rank or all of them
killed in the middle of that iteration, the same loss curve after the resume. Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parley.data.store import EpisodeStore
from results import record, summary_of

SMALL = [
    "experiment=deal_tiny", "objective=offline_po", "objective.credit.keep=all", "iterations=1", "play.scenarios=32",
    "play.group=4",
    "eval.scenarios=48", "eval.greedy=48", "eval.validation=12", "eval.opponents=[fair]", "learner.batch_utterances=32",
    "learner.checkpoint_s=0",
    # several micro-batches a step, so that every rank has a share
    "hardware.micro_tokens=512", "hardware.row_tokens=512",
]  # fmt: skip
ADAPTERS, PROFILES = ["none", "lora", "qlora"], ["cpu_x2", "cpu_x2_fsdp"]
LEARN, LOSS, STEPS, GONE_S = "iter_001/learn", 1e-5, 20, 60.0


def start(run: Path, words: list[str]) -> subprocess.Popen[bytes]:
    place = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    with open(run.parent / f"{run.name}.log", "ab") as log:
        command = [sys.executable, "-m", "parley", *words, place]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=run.parent, start_new_session=True)


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    if process.wait() != 0:
        sys.exit(f"the run failed:\n{(run.parent / f'{run.name}.log').read_text()[-3000:]}")


def part(run: Path, to: Path, *stages: str) -> Path:
    """A copy of a run that holds the given stages only."""
    to.mkdir()
    for name in ("config.yaml", "manifest.json", *stages):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, to / name)
    return to


def ids(run: Path) -> dict[str, Any]:
    """Of every match of the first round, the ids that were sampled."""
    episodes = EpisodeStore(run / "iter_001/play", shard=None).read()
    return {each.id: [turn.call.sampled_ids for turn in each.turns if turn.call] for each in episodes}


def curve(run: Path) -> list[dict[str, float]]:
    rows = json.loads((run / LEARN / "learn.json").read_text())["metrics"]["curve"]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def apart(one: list[dict[str, float]], two: list[dict[str, float]], key: str) -> float:
    """The largest difference between two curves."""
    return max(abs(a[key] - b[key]) for a, b in zip(one, two, strict=True))


def finals(run: Path) -> dict[str, Any]:
    """The last snapshot's figure on held-out scenarios, sampled and greedy."""
    summary = summary_of(run)
    row = summary["iterations"][-1]
    return {which: row[which][summary["metric"]] for which in ("sampled", "greedy")}


def overlap(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return all(one[which]["low"] <= two[which]["high"] and two[which]["low"] <= one[which]["high"] for which in one)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of the ranks that a command started, by rank."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        words = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found.update({int(word[5:]): int(child) for word in words if word.startswith("RANK=")})
    return [found[rank] for rank in sorted(found)]


def wait(process: subprocess.Popen[bytes], when: Callable[[], bool]) -> None:
    while not when():
        if process.poll() is not None:
            sys.exit("the run ended before it could be killed")
        time.sleep(0.002)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed(run: Path, words: list[str], one: bool) -> dict[str, Any]:
    """Kills one rank, or everything, after some steps of the first iteration, and goes on until its curve is there."""
    process, at = start(run, words), STEPS // 2
    wait(
        process, lambda: any(int(path.parent.name) >= at for path in (run / LEARN / "checkpoint").glob("*/state.json"))
    )
    begun = time.monotonic()
    if one:
        os.kill(children(process)[-1], signal.SIGKILL)
        process.wait(GONE_S)
    else:
        for rank in children(process):
            os.kill(rank, signal.SIGKILL)
        stop(process)
    seconds, code = time.monotonic() - begun, process.returncode
    steps = sorted(int(path.parent.name) for path in (run / LEARN / "checkpoint").glob("*/state.json"))
    process = start(run, words)
    wait(process, (run / LEARN / "stage.json").exists)
    stop(process)
    return {
        "killed": "one rank" if one else "all ranks",
        "from_step": steps[-1],
        "code": code,
        "gone_s": round(seconds, 1),
    }


def imitated(folder: Path) -> list[str]:
    """The words that begin a run at the default experiment's start, which is made here."""
    run = folder / "start"
    finish(start(run, ["experiment=deal_tiny", "task=imitate"]), run)
    return ["model=hf", f"model.path={run}/iter_000/start/snapshot", "imitate.matches=0", "imitate.validation=0"]


def compare(folder: Path, adapter: str, profiles: list[str], overrides: list[str]) -> list[dict[str, Any]]:
    """The rows of one adapter: each profile against one process, and its kills."""
    common = [*SMALL, f"adapter={adapter}", *overrides]
    single = folder / f"{adapter}_cpu"
    finish(start(single, [*common, "hardware=cpu"]), single)
    rows = []
    for profile in profiles:
        words = [*common, f"hardware={profile}"]
        run = part(single, folder / f"{adapter}_{profile}", "iter_000")
        finish(start(run, words), run)
        row = {
            "adapter": adapter, "hardware": profile, "matches": len(ids(run)), "same_ids": ids(run) == ids(single),
            "steps": len(curve(run)), "loss_apart": apart(curve(single), curve(run), "loss"),
            "grad_norm_apart": apart(curve(single), curve(run), "grad_norm"), "figures": [finals(single), finals(run)],
            "overlap": overlap(finals(single), finals(run)), "kills": [],
        }  # fmt: skip
        for one in (True, False):
            cut = part(run, folder / f"{adapter}_{profile}_{one}", "iter_000", "iter_001/play")
            row["kills"].append({**killed(cut, words, one), "same_curve": curve(cut) == curve(run)})
        row["good"] = (
            row["same_ids"] and row["steps"] >= STEPS and row["loss_apart"] <= LOSS and row["overlap"]
            and all(each["same_curve"] and each["gone_s"] <= GONE_S for each in row["kills"])
        )  # fmt: skip
        print(json.dumps({key: value for key, value in row.items() if key != "figures"}), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    adapters = [word for word in ADAPTERS if word in sys.argv[1:]] or ADAPTERS
    profiles = [word for word in PROFILES if word in sys.argv[1:]] or PROFILES
    overrides = [word for word in sys.argv[1:] if "=" in word]
    with tempfile.TemporaryDirectory() as folder:
        begin = imitated(Path(folder))
        rows = [row for adapter in adapters for row in compare(Path(folder), adapter, profiles, [*overrides, *begin])]
    record("ranks", {"overrides": [*SMALL, *overrides], "rows": rows})
    sys.exit(0 if all(row["good"] for row in rows) else 1)


if __name__ == "__main__":
    main()
