"""The fuzzers at length, with new seeds: command lines, data files, model folders, templates, servers, kills.

    python benchmarks/stress.py [--hours 2] [--seed N]        # make stress

Each part is a test of the suite, run with another seed and many tries; the short form of the same test is in `make
test`. A call does one part after the other until its time is over, and the next call goes on with the following part:
build/stress/done.jsonl has what was done. A part that fails is kept, with its seed, in build/stress/failures.jsonl, and
is run first by every later call until it passes. Exits with 1 while there is one. A round that is whole is written to
docs/results/stress.json: each part with its tries, seed and revision, and whether it passed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from typing import Any

from results import ROOT, record, revision

PLACE = ROOT / "build" / "stress"
PARTS: dict[str, tuple[str, int, int]] = {  # name -> test, tries of one part, parts in all
    "command lines": ("tests/cli/test_fuzz_commands.py", 100, 10),
    "data files": ("tests/data/test_fuzz.py", 100, 5),
    "model folders and templates": ("tests/models/test_fuzz_models.py", 40, 3),
    "servers": ("tests/backends/test_fuzz_servers.py", 50, 3),
}
KILLS = ("policies", "rounds", "wandb", "processes", "sweep", "server")  # kinds of run, beside a plain one


def parts() -> list[str]:
    """All parts in the order in which they are done: each kind in turn."""
    rounds = range(max(count for *_, count in PARTS.values()))
    fuzzed = [f"{name} {at}" for at in rounds for name, (*_, count) in PARTS.items() if at < count]
    return [*fuzzed, "kills plain", *(f"kills {kind}" for kind in KILLS)]


def command(part: str, seed: int) -> tuple[list[str], dict[str, str]]:
    """What does a part, and its environment."""
    name, _, kind = part.rpartition(" ")
    if name not in PARTS:
        several = ["benchmarks/show_kills.py", str(PLACE / f"kills-{seed}"), kind]
        words = ["benchmarks/show_kill.py"] if kind == "plain" else several
        return [sys.executable, *words, f"seed={seed % 1000}"], {}
    test, tries, _ = PARTS[name]
    own = {"PARLEY_STRESS": str(tries), "PARLEY_SEED": str(seed)}
    return [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test], own


def does(part: str, seed: int) -> bool:
    """Whether a part passes; what it said stands in a file beside the others."""
    words, own = command(part, seed)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **own}
    told = PLACE / f"{part.replace(' ', '_')}-{seed}.txt"
    with open(told, "w") as file:
        code = subprocess.run(words, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code == 0:
        told.unlink()
    return code == 0


def rows(name: str) -> list[dict[str, Any]]:
    path = PLACE / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description="the fuzzers at length", allow_abbrev=False)
    parser.add_argument("--hours", type=float, default=2.0, help="no further part is begun after these")
    parser.add_argument("--seed", type=int, help="of the parts of this call; new ones without it")
    asked = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * asked.hours
    failing = []
    for row in rows("failures.jsonl"):
        passed = does(row["part"], row["seed"])
        print(f"{'mended' if passed else 'STILL FAILS':<12} {row['part']}, seed {row['seed']}", flush=True)
        failing += [] if passed else [row]
    (PLACE / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in failing))
    while time.monotonic() < until and (left := [part for part in parts() if part not in _done()]):
        seed, began = secrets.randbelow(10**9) if asked.seed is None else asked.seed, time.monotonic()
        passed = does(left[0], seed)
        took, tries = round(time.monotonic() - began, 1), PARTS.get(left[0].rpartition(" ")[0], ("", None))[1]
        row = {"part": left[0], "tries": tries, "seed": seed, "passed": passed, "seconds": took, "revision": revision()}
        for name in ["done.jsonl", *([] if passed else ["failures.jsonl"])]:
            with open(PLACE / name, "a") as file:
                file.write(json.dumps(row) + "\n")
        print(f"{'passed' if passed else 'FAILED':<12} {row['part']}, seed {seed}, {row['seconds']} s", flush=True)
    return _told()


def _done() -> set[str]:
    return {row["part"] for row in rows("done.jsonl")}


def _told() -> int:
    found, failing = _done(), rows("failures.jsonl")
    print(f"{len(found)} of {len(parts())} parts done, {len(failing)} seeds fail (their output is in {PLACE})")
    if len(found) == len(parts()):
        record("stress", {"parts": rows("done.jsonl"), "failing": failing})
        (PLACE / "done.jsonl").unlink()  # the next call begins anew, with other seeds
    return int(bool(failing))


if __name__ == "__main__":
    sys.exit(main())
