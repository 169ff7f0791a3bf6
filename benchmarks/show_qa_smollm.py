"""SmolLM2-135M-Instruct with a search engine, on a CPU: untrained, after imitation, after an iteration of SPIN.

    make smollm
    python benchmarks/show_qa_smollm.py FOLDER DATA          # runs lie in FOLDER; stopped, the same command goes on
    python benchmarks/show_qa_smollm.py FOLDER DATA so-far   # runs nothing, and writes what the runs hold so far

DATA has `agent_qa/` (FireAct's files) and `wiki_vital/` (first sections of Wikipedia). The model imitates the shortest
of GPT-4's trajectories that search, as many of HotpotQA as of StrategyQA, with all its weights; then SPIN pairs them
with its own rollouts on the same questions. Every snapshot answers the same held-out questions of both tasks, sampled
with the same seeds. Told are EM, F1 and broken formats by task, with intervals, and paired differences; nothing is
claimed.
"""

from __future__ import annotations

import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from parley.data.store import Matches
from parley.games.qa.scoring import TASKS
from parley.games.qa.trajectory import from_row
from parley.report.estimates import estimate, paired, summarise
from parley.report.run import summary
from parley.system.files import read_json, write_json, write_text
from results import record
from show_policies import ran

TAUGHT, ASKED = 30, 20  # trajectories and held-out questions of each task
LEARNT = ("hotpotqa", "strategyqa")
SETTINGS = [
    "experiment=qa_smollm", "hardware=cpu", "hardware.precision=bf16-mixed", "seed=1", "game.steps=5",
    f"play.scenarios={2 * TAUGHT}", "play.in_flight=40", "play.sampling.max_tokens=64", f"eval.scenarios={2 * ASKED}",
    "eval.greedy=1", "eval.validation=2", "eval.sampling.max_tokens=64", "imitate.learner.batch_utterances=24",
    "learner.batch_utterances=48", "learner.checkpoint_s=60", "imitate.learner.checkpoint_s=60",
]  # fmt: skip
RUNS = {"untrained": ["iterations=0", "imitate.first=false"], "trained": ["iterations=1"]}
STATES = {"untrained": ("untrained", 0), "imitated": ("trained", 0), "SPIN": ("trained", 1)}  # run, iteration
METRICS = ("em", "f1", "finished_rate", "invalid_rate", "searches", "tool_empty_rate", "steps")


def corpus(data: Path, file: Path) -> Path:
    """The sections as a corpus."""
    if not file.exists():
        with gzip.open(data / "wiki_vital/vital4_en.jsonl.gz", "rt") as lines:
            write_text(file, lines.read())
    return file


def trajectories(data: Path, file: Path) -> Path:
    """The shortest trajectories of each task in which something is searched."""
    if not file.exists():
        rows = read_json(data / "agent_qa/react_gpt4_multitask_1344.json")
        searching = sorted((row for row in rows if "Action: search[" in row["output"]), key=lambda row: len(_told(row)))
        held_out = {row["question"] for row in read_json(data / "agent_qa/strategyqa_dev.json")}
        found = {task: [row for row in searching if from_row(row).task == task] for task in LEARNT}
        new = {task: [row for row in each if _question(row) not in held_out] for task, each in found.items()}
        write_json(file, [row for each in new.values() for row in each[:TAUGHT]])
    return file


def _told(row: dict[str, Any]) -> str:
    return str(row["instruction"] + row["output"])


def _question(row: dict[str, Any]) -> str:
    return from_row(row).question


def words(folder: Path, data: Path) -> list[str]:
    """What composes the runs: the experiment on these files."""
    taught, qa = trajectories(data, folder / "trajectories.json"), data / "agent_qa"
    hotpot = f"path: {qa / 'hotpotqa_dev.json'}, task: hotpotqa, shuffle: 233"
    strategy = f"path: {qa / 'strategyqa_dev.json'}, task: strategyqa, end: {ASKED}"
    return [
        *SETTINGS, f"data.path={taught}", f"game.memo={qa / 'search_memo.jsonl'}",
        f"game.corpus={corpus(data, folder / 'wiki.jsonl')}", f"game.questions.train=[{{path: {taught}}}]",
        f"game.questions.validation=[{{{hotpot}, start: 500, end: 502}}]",
        f"game.questions.test=[{{{hotpot}, end: {ASKED}}}, {{{strategy}}}]",
    ]  # fmt: skip


def answered(folder: Path, state: str) -> Path:
    """The folder of a state's matches on the held-out questions."""
    run, iteration = STATES[state]
    return folder / run / f"iter_{iteration:03d}/eval/sampled"


def figures(matches: Matches) -> dict[str, Any]:
    """The metrics by task, and the share of replies that broke the format."""
    told, broken = summarise(matches), dict[str, Any]()
    for task in TASKS:
        mine = [each for each in matches if each.scenario.data["task"] == task]
        refused = [(turn.request in each.refused(turn.seat), each.scenario.cluster)
                   for each in mine for turn in each.turns if turn.seat in each.result.returns]  # fmt: skip
        if refused:
            broken[task] = estimate(*zip(*((float(no), name) for no, name in refused), strict=True)).to_json()
    return {name: told[name].to_json() for name in _names(told)} | {"broken_replies": broken}


def _names(told: Any) -> list[str]:
    return [name for task in LEARNT for metric in METRICS if (name := f"{task}.{metric}") in told]


def measured(folder: Path) -> dict[str, Any]:
    """The figures of the states that there are, and what changed from one to the next, paired by question."""
    there = [state for state in STATES if (answered(folder, state) / "stage.json").exists()]
    found = {state: Matches(answered(folder, state)) for state in there}
    runs = [folder / name for name in RUNS if (folder / name / "summary.json").exists()]
    return {
        "states": {state: figures(matches) for state, matches in found.items()},
        "changes": {
            f"{after} less {before}": {
                f"{task}.{metric}": paired(found[before], found[after], f"{task}.{metric}").to_json()
                for task in LEARNT for metric in ("em", "invalid_rate")
            }
            for before, after in pairwise(there)
        },
        "cpu_seconds": {run.name: summary(run).cpu_seconds for run in runs},
        "learn": {run.name: [row.to_json()["policies"]["learner"].get("learn") for row in summary(run).iterations]
                  for run in runs},
        "revision_of_runs": {
            run.name: json.loads((run / "manifest.json").read_text())["git"]["revision"] for run in runs
        },
    }  # fmt: skip


def main() -> None:
    folder, data, asked = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:]
    folder.mkdir(parents=True, exist_ok=True)
    composed = words(folder, data)
    for name, own in RUNS.items() if not asked else ():
        ran(folder / name, [*composed, *own])
        record("qa_smollm", {"overrides": {"all": SETTINGS, **RUNS}, **measured(folder)})
    if asked:
        record("qa_smollm", {"overrides": {"all": SETTINGS, **RUNS}, **measured(folder)})
    for state, each in measured(folder)["states"].items():
        print(
            state, {name: (value or {}).get("mean") for name, value in each.items() if name.endswith((".em", "_rate"))}
        )


if __name__ == "__main__":
    main()
