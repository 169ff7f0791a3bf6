"""Kills six kinds of run (kill -9), resumes each, and compares it with the same run that was left alone.

    python benchmarks/show_kills.py FOLDER [policies rounds wandb processes sweep server] [seed=N]

A tiny model plays Kuhn poker, seed 1 without another (a sweep: 1 and 2): two policies, several rounds in an iteration,
W&B offline, two processes, a sweep (killed in each of its jobs), and a served model that a service fine-tunes
(tests/openai_server.py). The same summary must come out; on W&B each row of the history once, as in the run left alone;
from a server no answer and no job paid for twice. Runs lie in FOLDER and go on from there; figures are added to what
earlier calls stored, kind by kind. Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import ROOT, record, revision
from show_kill import begun, figures, kill, learning, start
from show_policies import unlike

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/report")]

SMALL = [
    "experiment=kuhn_tiny", "seed=1", "iterations=2", "rounds=1", "play.group=8", "imitate.matches=200",
    "imitate.validation=6", "learner.checkpoint_s=0",
]  # fmt: skip
SERVED = [
    "experiment=deal_hosted", "game=kuhn", "game.prompt=chat", "~game.payoff", "name=kuhn_served", "seed=1",
    "metric=versus.start.score", "iterations=2", "play.scenarios=6", "play.group=4", "play.sampling.max_tokens=4",
    "objective.credit.keep=all", "eval.scenarios=6", "eval.greedy=6", "eval.validation=6", "eval.opponents=[]",
    "learner.poll_s=0.2", "backend.price_prompt=1", "backend.price_completion=1", "backend.key_env=SERVER_KEY",
    "learner.key_env=SERVER_KEY",
]  # fmt: skip
RESULTS = ROOT / "docs/results/kills.json"
LEFT_OUT = ("seconds", "_timestamp", "_runtime", "per_second", "transcripts")
"""Parts of the names of W&B's rows that may differ: times, and where a table's file lies."""
When = Callable[[Path], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of run: its words, the moments at which it is killed, and what else must hold (run left alone, run killed)
    -> what is wrong."""

    words: list[str]
    moments: dict[str, When]
    wrong: Callable[[Path, Path], list[str]] = lambda whole, cut: []


def round_begun(run: Path) -> bool:
    return (run / "iter_001/play/r002").is_dir()


def job(number: int, when: When) -> When:
    """The moment in a job of a sweep."""
    return lambda folder: any(when(run) for run in folder.glob(f"multirun/*/*/{number}"))


MOMENTS: dict[str, When] = {
    "play": begun("iter_001/play"), "learn": learning(1), "evaluation": begun("iter_002/eval/sampled"),
}  # fmt: skip


# --- W&B ---


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of W&B's history over all processes of a run, in the order of their files."""
    from test_trackers import records

    paths = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for path in paths
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def history(whole: Path, cut: Path) -> list[str]:
    """How the history of the killed run differs from the other's."""

    def told(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if not any(part in name for part in LEFT_OUT)}

    one, other = [told(row) for row in rows(whole)], [told(row) for row in rows(cut)]
    if [row["_step"] for row in other] != list(range(len(one))):
        return [f"W&B: steps {[row['_step'] for row in other]} of {len(one)} rows"]
    return [f"W&B, row {at}: {unlike(*pair)}" for at, pair in enumerate(zip(one, other, strict=True)) if unlike(*pair)]


# --- a server ---


def paid(whole: Path, cut: Path) -> list[str]:
    """What was paid for twice: requests with two answers in the ledger, and fine-tuning jobs."""
    del whole
    lines = [json.loads(line) for line in (cut / "spending/backend.jsonl").read_text().splitlines()]
    names = {line["book"]: line["for"] for line in lines if "book" in line}
    twice = [name for name, n in Counter(names[line["settle"]] for line in lines if "answer" in line).items() if n > 1]
    jobs = [line for line in (cut / "spending/learner.jsonl").read_text().splitlines() if "book" in json.loads(line)]
    return [f"answered twice: {name}" for name in twice] + ([f"{len(jobs)} jobs"] if len(jobs) != 2 else [])


def poker(body: dict[str, Any]) -> dict[str, Any]:
    """A move that the request's seed decides."""
    from openai_server import completion

    return completion(body, ("pass", "bet")[body["seed"] // 7 % 2])


@contextmanager
def serving(kind: str) -> Iterator[list[str]]:
    """The words that name a server, which lives as long as the run; none for kinds that need none."""
    if kind != "server":
        yield []
        return
    from openai_server import KEY, Server

    os.environ["SERVER_KEY"] = KEY
    server = Server(poker, delay_s=0.02)
    yield [f"backend.url={server.url}", f"learner.url={server.url}"]
    server.close()


KINDS = {
    "policies": Kind(
        [*SMALL, "+policies.one={}", "+policies.two={}", "+players.first=one", "+players.second=two",
         "metric=one.versus.start.score"],
        MOMENTS,
    ),
    "rounds": Kind([*SMALL, "rounds=3"], {"second round": round_begun, "evaluation": MOMENTS["evaluation"]}),
    "wandb": Kind([*SMALL, "logger=wandb"], MOMENTS, history),
    "processes": Kind([*SMALL, "hardware=cpu_x2"], MOMENTS),
    "sweep": Kind(
        ["-m", *SMALL, "iterations=1", "seed=1,2"],
        {"job 1": job(0, MOMENTS["play"]), "job 2": job(1, MOMENTS["learn"])},
    ),
    "server": Kind(SERVED, MOMENTS, paid),
}  # fmt: skip


def started(kind: str, run: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """Begins a run, or goes on with it as the pages say: `resume=RUN`, for a sweep `resume=auto`."""
    if kind != "sweep":
        return start(run, words)
    run.mkdir(exist_ok=True)
    with open(run.parent / f"{run.name}.log", "ab") as log:
        command = [sys.executable, "-m", "parley", *words, "resume=auto"]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=run, start_new_session=True)


def summaries(run: Path) -> list[Any]:
    """The figures of a run, or of each job of a sweep."""
    return [figures(json.loads(path.read_text())) for path in sorted(run.rglob("summary.json"))]


def ended(kind: str, run: Path, words: list[str]) -> None:
    """Goes on with a run to its end."""
    if len(summaries(run)) < (2 if kind == "sweep" else 1) and started(kind, run, words).wait():
        sys.exit(f"the run failed:\n{(run.parent / f'{run.name}.log').read_text()[-3000:]}")


def tried(name: str, folder: Path, seed: list[str]) -> dict[str, Any]:
    """The figures of one kind, with the word of another seed where there is one."""
    words = KINDS[name].words + (seed if name != "sweep" else [])
    kind, whole, cut, notes = KINDS[name], folder / name / "whole", folder / name / "cut", folder / name / "killed.json"
    whole.parent.mkdir(parents=True, exist_ok=True)
    killed = json.loads(notes.read_text()) if notes.exists() else {}
    with serving(name) as more:
        ended(name, whole, words + more)
    with serving(name) as more:
        for moment, when in kind.moments.items():
            if moment in killed:
                continue
            killed[moment] = kill(started(name, cut, words + more), cut, when, 0.0)
            notes.write_text(json.dumps(killed))
            print(f"{name}: {moment} {'killed' if killed[moment] else 'MISSED'}", flush=True)
        ended(name, cut, words + more)
    one, other = summaries(whole), summaries(cut)
    wrong = [f"summary: {key}" for key in unlike(one, other)] + kind.wrong(whole, cut)
    row = {"revision": revision(), "overrides": words, "killed": killed, "same": not wrong, "wrong": wrong[:5]}
    print(f"{name}: {'same figures' if not wrong else wrong[:5]}", flush=True)
    return row


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    seed, chosen = ([word for word in sys.argv[2:] if ("=" in word) == other] for other in (True, False))
    chosen = chosen or list(KINDS)
    stored = json.loads(RESULTS.read_text())["kinds"] if RESULTS.exists() else {}
    sys.argv[1] = "FOLDER"  # results name no folder of this machine
    for name in chosen:
        stored[name] = tried(name, folder, seed)
        record("kills", {"kinds": stored})
    return int(not all(stored[name]["same"] and all(stored[name]["killed"].values()) for name in chosen))


if __name__ == "__main__":
    sys.exit(main())
