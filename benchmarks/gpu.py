"""Runs the checks of gpu_checks.py, each in a process of its own, within a time limit, and writes what they gave.

    benchmarks/gpu.sh [--out FILE] [--only NAME ...]     on a GPU: docs/results/gpu.json unless --out says otherwise
    benchmarks/gpu.sh --cpu                              every path on tiny shapes, all in one process

A check is ok, failed, skipped (what it needs is missing) or left out (no time). Exit code 1 if any failed; the last
line is JSON. Nothing but PyTorch, transformers, Lightning and peft is needed (vLLM and openai for the checks of
engines); Hydra is not imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHILD = (
    "import sys; sys.modules.update(hydra=None, omegaconf=None); import gpu_checks; gpu_checks.main(*sys.argv[1:4], "
    "sys.argv[4:])"
)
LIMIT = 860.0  # seconds for everything
LEAST = 15.0  # seconds that a check needs to be begun
# Most important first; seconds that each may take on a GPU, compiling included.
CHECKS = {
    "device": 60, "packed": 90, "full_1b": 90, "lora_7b": 110, "qlora_7b": 130, "fsdp": 80, "plain_1b": 70,
    "learner": 90,
    "checkpointed_1b": 80, "head": 50, "play": 60, "prefixes": 40, "vllm": 120, "servers": 180,
}  # fmt: skip


def run(names: Sequence[str], cpu: bool) -> dict[str, dict[str, Any]]:
    """The result of every check."""
    deadline = time.monotonic() + LIMIT
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while left := [name for name in names if name not in results]:
            allowed = min(deadline - time.monotonic(), 1e9 if cpu else CHECKS[left[0]])
            if allowed < LEAST:
                results |= {name: {"status": "left out", "why": "no time"} for name in left}
                break
            sparse = not cpu and _sparse(results.get("packed", {}))
            results |= _process(left if cpu else left[:1], cpu, sparse, Path(folder), allowed)
            for name in left:
                if name in results:
                    print(_line(name, results[name]), flush=True)
    return {name: results[name] for name in names}


def _sparse(packed: dict[str, Any]) -> bool:
    """Whether the block-sparse kernel gave the right numbers, as far as is known."""
    return "why" not in packed and not any(fault.startswith("flex") for fault in packed.get("faults", []))


def _process(names: Sequence[str], cpu: bool, sparse: bool, folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Runs `names` in one process; the first that has no result when it ends is the one that failed.

    Hydra cannot be imported there. `sparse` chooses the block-sparse kernel, which is not used once it failed.
    """
    out, log = folder / f"{names[0]}.jsonl", folder / f"{names[0]}.log"
    attention = "flex_attention" if sparse else "sdpa"
    command = [sys.executable, "-c", CHILD, str(out), "cpu" if cpu else "cuda", attention, *names]
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"} if cpu else dict(os.environ)  # no compiler is needed then
    started = time.monotonic()
    why = ""
    with open(log, "w") as stream:
        try:
            subprocess.run(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                env=environment,
                cwd=HERE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            why = f"stopped after {seconds:.0f} s"
    found = dict(json.loads(line) for line in out.read_text().splitlines()) if out.exists() else {}
    if missing := [name for name in names if name not in found]:
        tail = log.read_text(errors="replace").strip().splitlines()[-25:]
        print("\n".join(tail), file=sys.stderr)
        why = why or (tail[-1] if tail else "no output")
        found[missing[0]] = {"status": "failed", "why": why, "seconds": round(time.monotonic() - started, 1)}
    return found


def _line(name: str, result: dict[str, Any]) -> str:
    figures = {key: value for key, value in result.items() if key not in ("status", "seconds")}
    return f"{name:16s} {result['status']:9s} {result.get('seconds', 0):6.1f} s  {json.dumps(figures)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument(
        "--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="NAME", help=", ".join(CHECKS)
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    results = run(options.only, options.cpu)
    figures = {
        "device": results.get("device", {}).get("name"),
        "seconds": round(time.monotonic() - started),
        "checks": results,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    elif not options.cpu:
        from results import record

        record("gpu", figures)
    print(json.dumps({name: result["status"] for name, result in results.items()}))
    return int(any(result["status"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
