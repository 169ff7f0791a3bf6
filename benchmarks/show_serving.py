"""Checkpoints behind vLLM's server: docs/serving.md's commands on loopback, with a tiny model.

    .venv-vllm/bin/python benchmarks/show_serving.py [FOLDER]   # what lies in FOLDER already is not made again

A tiny model imitates, then trains a LoRA adapter for two iterations with the transformers backend. One server (vLLM's
CPU build, --enable-lora, --lora-modules) serves both adapters by name, and a sweep with iterations=0 evaluates them
through the API. Exits with 1 unless every greedy match has the texts of the run's own evaluation. Three minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parley.data.store import Matches
from parley.report.run import summary
from results import record
from serving import FLAGS, Process
from show_servers import imitated

NAMES = ("iter_001", "iter_002")
SMALL = [
    "imitate.matches=0", "eval.opponents=[]", "eval.scenarios=24", "eval.greedy=24", "eval.validation=4",
    "play.in_flight=16",
]  # fmt: skip
LEARNT = [
    "iterations=2", "adapter=lora", "adapter.r=8", "play.scenarios=24", "play.group=2", "objective.credit.keep=all",
    "learner.optimizer.lr=1e-3",
]  # fmt: skip


def parley(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "parley", *words], check=True)


def learnt(folder: Path) -> tuple[str, Path]:
    """(the base, a run of two iterations on it)."""
    base, run = f"{folder}/made/iter_000/start/snapshot", folder / "run"
    if not (run / "summary.json").exists():
        shutil.rmtree(folder / "made", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        base = imitated(folder)
        parley(*SMALL, *LEARNT, "model=hf", f"model.path={base}", f"hydra.run.dir={run}")
    return base, run


def evaluated(folder: Path, base: str, run: Path) -> Path:
    """The sweep of both names on the server."""
    adapters = {name: f"{run}/{name}/learn/learner/snapshot" for name in NAMES}
    lora = " ".join(f"{name}={path}" for name, path in adapters.items())
    flags = f"{FLAGS} --tokenizer {adapters[NAMES[-1]]} --lora-modules {lora}"
    server, sweep = Process(base, folder / "server.log", flags), folder / "sweep"
    shutil.rmtree(sweep, ignore_errors=True)
    try:
        server.wait()
        parley(
            "-m", *SMALL, "iterations=0", "model=served", f"model.id={','.join(NAMES)}", "backend=openai",
            f"backend.url={server.url}", f"hydra.sweep.dir={sweep}",
        )  # fmt: skip
    finally:
        server.kill()
    return sweep


def compared(own: Path, job: Path) -> dict[str, Any]:
    """A snapshot's evaluation by the run itself and through the server."""
    number = int(own.name.removeprefix("iter_"))
    both = [{each.scenario.id: said(each) for each in Matches(folder / "eval/greedy")}
            for folder in (own, job / "iter_000")]  # fmt: skip
    equal = sum(texts == both[1].get(name) for name, texts in both[0].items())
    rows = {"run": summary(own.parent).iterations[number], "server": summary(job).iterations[0]}
    scores = {name: row.policies["learner"].sampled["joint_score"] for name, row in rows.items()}
    return {
        "greedy_matches": len(both[0]), "with_the_same_texts": equal,
        "sampled_joint_score": {name: score for name, score in scores.items()},
    }  # fmt: skip


def said(episode: Any) -> list[str]:
    """The replies. vLLM's server puts a space before the first word of a tokenizer that splits at white space."""
    return [turn.text.strip() for turn in episode.turns]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if sys.argv[1:] else scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        base, run = learnt(folder)
        sweep = evaluated(folder, base, run)
        found = {name: compared(run / name, sweep / str(at)) for at, name in enumerate(NAMES)}
    del sys.argv[1:]  # results name no folder of this machine
    print(found)
    record("serving", {"overrides": {"run": [*SMALL, *LEARNT], "server": SMALL}, **found})
    sys.exit(any(each["with_the_same_texts"] != each["greedy_matches"] for each in found.values()))


if __name__ == "__main__":
    main()
