"""Kills a small run (kill -9) at ten moments, resumes it each time, and compares it with the run that was left alone.

    python benchmarks/show_kill.py [overrides...]

The moments are in every stage; one tears the line of an episode in two, as a kill inside a write does, and one leaves a
half-written snapshot. Shown are: the same figures in summary.json (seconds aside), every stored episode still there
byte for byte after each resume, and no finished stage made again. Exits with 1 if anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import record

SMALL = [
    "experiment=deal_tiny", "iterations=2", "imitate.matches=2400", "imitate.learner.batch_utterances=80",
    "imitate.validation=20",
    "objective.credit.keep=above_avg", "play.scenarios=48", "eval.scenarios=24", "eval.greedy=24", "eval.validation=24",
    "eval.opponents=[fair]",
]  # fmt: skip
TIMES = {"seconds", "cpu_seconds", "reference_seconds"}


def playing(stage: str) -> Callable[[Path], bool]:
    """Some episodes of the stage are stored, but the stage is not finished."""

    def now(run: Path) -> bool:
        folder = run / stage
        return not (folder / "stage.json").exists() and any(
            path.stat().st_size > 2000 for path in folder.glob("*.jsonl")
        )

    return now


def begun(stage: str) -> Callable[[Path], bool]:
    """The stage's folder is there, its manifest is not."""
    return lambda run: (run / stage).is_dir() and not (run / stage / "stage.json").exists()


def learning(number: int) -> Callable[[Path], bool]:
    """The round of an iteration was played, and its learning is not finished."""
    at = begun(f"iter_{number:03d}/learn")
    return lambda run: (run / f"iter_{number:03d}/play/stage.json").exists() and at(run)


def moments() -> list[tuple[str, Callable[[Path], bool], float]]:
    """(name, when, seconds to wait after that): in the order in which a run meets them."""
    return [
        ("demonstrations", playing("iter_000/demonstrations/train"), 0.0),
        ("base model", begun("iter_000/base"), 0.0),
        ("imitation", begun("iter_000/start"), 1.5),
        ("evaluation of the start", playing("iter_000/eval/sampled"), 0.0),
        ("play, inside a write", playing("iter_001/play"), 0.0),
        ("credit and learn", learning(1), 0.2),
        ("learn, inside a snapshot", learning(1), 0.8),
        ("evaluation", begun("iter_001/eval/greedy"), 0.0),
        ("second play", playing("iter_002/play"), 0.0),
        ("second learn", learning(2), 0.3),
    ]


def start(run: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parley", *overrides, f"resume={run}" if run.exists() else f"hydra.run.dir={run}"]
    with open(run.parent / f"{run.name}.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=run.parent, start_new_session=True)


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    if process.wait() != 0:
        sys.exit(f"the run failed:\n{(run.parent / f'{run.name}.log').read_text()[-3000:]}")


def stored(run: Path) -> dict[str, tuple[int, str]]:
    """Of every shard its whole lines, of every manifest its bytes: (length, digest)."""
    found = {}
    for path in sorted([*run.rglob("*.jsonl"), *run.rglob("stage.json")]):
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if path.name != "metrics.jsonl":
            found[str(path.relative_to(run))] = (len(whole), hashlib.sha256(whole).hexdigest())
    return found


def kept(run: Path, before: dict[str, tuple[int, str]]) -> list[str]:
    """The files that no longer begin with what they held."""
    return [
        name
        for name, (size, digest) in before.items()
        if hashlib.sha256((run / name).read_bytes()[:size]).hexdigest() != digest
    ]


def kill(process: subprocess.Popen[bytes], run: Path, when: Callable[[Path], bool], delay: float) -> bool:
    """Waits for the moment and kills the whole process group; False where the run ended before it."""
    while not when(run):
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def tear(run: Path, stage: str) -> None:
    """What a kill inside a write leaves: the last line of the newest shard cut in two."""
    path = max((run / stage).glob("*.jsonl"), key=lambda each: each.stat().st_mtime)
    data = path.read_bytes()
    end = data.rstrip(b"\n").rfind(b"\n") + 1
    with open(path, "rb+") as file:
        file.truncate(end + (len(data) - end) // 2)


def figures(value: Any) -> Any:
    """A summary without its times."""
    if isinstance(value, dict):
        return {
            key: figures(each) for key, each in value.items() if key not in TIMES and not key.endswith("per_second")
        }
    return [figures(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    overrides = SMALL + sys.argv[1:]
    rows, damage = [], []
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        finish(start(whole, overrides), whole)
        for name, when, delay in moments():
            process = start(cut, overrides)
            hit = kill(process, cut, when, delay)
            if hit and name.endswith("inside a write"):
                tear(cut, "iter_001/play")
            before = stored(cut)
            rows.append(
                {"moment": name, "killed": hit, "files": len(before), "bytes": sum(size for size, _ in before.values())}
            )
            print(
                f"{name:30s} {'killed' if hit else 'MISSED':8s} {len(before):3d} files, {rows[-1]['bytes']:>9d} bytes "
                f"stored",
                flush=True,
            )
            process = start(cut, overrides)
            time.sleep(4.0)  # let it go on a little, so that what it keeps can be seen
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            damage += [f"{name}: {each}" for each in kept(cut, before)]
        finish(start(cut, overrides), cut)
        same = figures(json.loads((whole / "summary.json").read_text())) == figures(
            json.loads((cut / "summary.json").read_text())
        )
    killed = sum(row["killed"] for row in rows)
    print(
        f"killed {killed} of {len(rows)} moments; same figures: {same}; files changed after they were stored: "
        f"{len(damage)}"
    )
    record("kill", {"overrides": overrides, "moments": rows, "same_figures": same, "changed_files": damage})
    sys.exit(0 if same and not damage and killed >= 10 else 1)


if __name__ == "__main__":
    main()
