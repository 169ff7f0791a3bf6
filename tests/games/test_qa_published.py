"""FireAct's published files by our reader and scorer (arXiv 2310.05915). They are not in this repository."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
from parley.games.base import Illegal, Reply
from parley.games.qa import FileQuestions
from parley.games.qa.grammar import parse
from parley.games.qa.questions import Selection
from parley.games.qa.scoring import TASKS
from parley.games.qa.trajectory import from_row

DATA = Path(os.environ.get("PARLEY_DATA", "")) / "agent_qa"
pytestmark = pytest.mark.skipif(
    "PARLEY_DATA" not in os.environ or not DATA.is_dir(),
    reason="FireAct's files are not here: set PARLEY_DATA to the folder that holds agent_qa/",
)
HOTPOT = str(DATA / "hotpotqa_dev.json")


def load(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def evaluation() -> Selection:
    return Selection(HOTPOT, "hotpotqa", shuffle=233, end=500)


def test_the_order_of_the_500_evaluation_questions() -> None:
    found = [int(each.id.rpartition(":")[2]) for each in evaluation().scenarios()]
    order = list(range(7405))
    Random(233).shuffle(order)
    assert found[:5] == [3687, 6238, 5388, 3522, 3824] and found == order[:500]


@pytest.mark.parametrize(
    ("name", "finished", "em", "f1"),
    [("llama2_7b", 500, 26.2, 38.0), ("llama2_13b", 499, 34.4, 47.9), ("gpt35", 465, 40.0, 54.2)],
)
def test_em_and_f1_of_the_published_runs(name: str, finished: int, em: float, f1: float) -> None:
    """Unfinished questions are absent from the files, and count."""
    runs, scores = load(f"trajectories_{name}.json"), []
    for scenario in evaluation().scenarios():
        answer = runs.get(scenario.id.rpartition(":")[2], {}).get("pred")
        scores.append(TASKS["hotpotqa"].score(answer, scenario.data["answers"], "corrected"))
    assert len(runs) == finished and len(scores) == 500
    assert [round(sum(each[key] for each in scores) / 5, 1) for key in ("em", "f1")] == [em, f1]


def test_the_experts_replies_are_legal_but_for_three() -> None:
    """Row 406 has five searches in one action, 864 an observation with "Thought:", 895 a thought of many lines."""
    odd = []
    for number, row in enumerate(load("react_gpt4_multitask_1344.json")):
        found = [parse(Reply("agent.1", text), ("search",)) for text in from_row(row).replies]
        odd += [number] if any(isinstance(each, Illegal) for each in found) else []
    assert odd == [406, 864, 895]


def test_the_questions_of_the_experts_and_those_of_the_evaluation_are_apart() -> None:
    rows = str(DATA / "react_gpt4_hotpotqa_500.json")
    found = FileQuestions([{"path": rows}], 0.1, [{"path": HOTPOT, "task": "hotpotqa", "shuffle": 233, "end": 500}])
    assert len(found.scenarios("test")) == 500
    assert len(list(chain(found.scenarios("train"), found.scenarios("validation")))) == 500


def test_every_task_can_be_read() -> None:
    found = FileQuestions(
        [{"path": str(DATA / "react_gpt4_multitask_1344.json"), "end": 500}],
        [{"path": str(path), "task": "mmlu"} for path in sorted((DATA / "mmlu_dev").glob("*.csv"))],
        [{"path": str(DATA / "strategyqa_dev.json"), "task": "strategyqa"}],
    )
    assert [len(found.scenarios(split)) for split in ("validation", "test")] == [30, 229]
    assert set(found.tasks) == {"hotpotqa", "mmlu", "strategyqa"}
