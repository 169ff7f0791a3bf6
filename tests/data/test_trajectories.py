"""Experts' trajectories: read, played through the game, written as published; evaluation questions are refused."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pytest
from parley.data.episode import Episode, Turn
from parley.data.formats import trajectories
from parley.data.sample import Demonstration
from parley.data.sources.rollouts import ScriptRollouts, TrajectoryFile
from parley.games.base import Reply
from parley.games.deal import Deal
from parley.games.qa import QA, FileQuestions, TwoHop
from parley.games.qa.trajectory import to_row
from parley.games.splits import SPLITS
from parley.system.files import InputError

DATA = Path(os.environ.get("PARLEY_DATA", "")) / "agent_qa"
published = pytest.mark.skipif(
    "PARLEY_DATA" not in os.environ or not DATA.is_dir(),
    reason="FireAct's files are not here: set PARLEY_DATA to the folder that holds agent_qa/",
)


def row(question: str, answer: str, *searches: str, found: str = "It is in Vienna.") -> dict[str, str]:
    steps = "".join(f"Thought: hm\nAction: search[{each}]\nObservation: {found}\n" for each in searches)
    told = f"{steps}Action: finish[{answer}]\nObservation: Episode finished, reward = True\n"
    return {"instruction": question, "input": "", "output": told}


def file(folder: Path, rows: Any, name: str = "rows.json") -> str:
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


ROWS = [row(f"{n} or what?", f"a{n}", *["Wien"] * (n % 3)) for n in range(60)]


def game(path: str, **more: Any) -> QA:
    return QA(FileQuestions([{"path": path}]), **more)


def replayed(made: QA, path: str) -> list[Demonstration]:
    """The demonstrations of all splits."""
    return [each for split in SPLITS for each in TrajectoryFile(path).demonstrations(made, split)]


def test_the_experts_replies_are_played_through_the_game(tmp_path: Path) -> None:
    made = game(path := file(tmp_path, ROWS), observation=9)
    demos = {each.id: each for each in TrajectoryFile(path).demonstrations(made, "train")}
    scenarios = made.scenarios("train")
    assert list(demos) == sorted(demos, key=lambda name: int(name.split(":")[-1])) and len(demos) == len(scenarios)
    for scenario in scenarios:
        demo = demos[scenario.id]
        first = made.match(scenario, 5).start()[0].messages
        assert demo.messages[: len(first)] == first and demo.cluster == scenario.cluster
        assert demo.messages[-1].content == f"Action: finish[{scenario.data['answers'][0]}]"
        assert demo.weights == tuple(float(each.role == "assistant") for each in demo.messages)
        told = [each.content for each in demo.messages if each.role == "user"][1:]
        assert told == ["Observation: It is in"] * (int(scenario.id.split(":")[-1]) % 3)
        assert not any("reward" in each.content for each in demo.messages)
    held = [each.id for each in TrajectoryFile(path).demonstrations(made, "validation")]
    assert held and not set(held) & set(demos)


def test_rows_that_do_not_replay_are_left_out_with_the_reason(tmp_path: Path) -> None:
    rows = [*ROWS, row("odd one?", "x", "a], search[b"), row("late one?", "x", *["a"] * 11)]
    made = game(path := file(tmp_path, rows))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = [
            each
            for split in ("train", "validation", "test")
            for each in TrajectoryFile(path).demonstrations(made, split)
        ]
    assert len(kept) == 60
    said = " ".join(str(each.message) for each in told)
    assert "1 illegal" in said and "1 unfinished" in said


def test_an_evaluation_question_among_training_rows_is_refused(tmp_path: Path) -> None:
    own = file(tmp_path, ROWS)
    trained = [int(each.id.rpartition(":")[2]) for each in game(own).scenarios("train")][:3]
    other = file(tmp_path, [*(ROWS[n] for n in trained), row("New or not", "b")], "other.json")
    test = file(tmp_path, [{"question": "NEW, or not?", "answer": "b"}], "test.json")
    made = QA(FileQuestions([{"path": own}], test=[{"path": test, "task": "hotpotqa"}]))
    with pytest.raises(
        InputError, match=r"1 rows are questions of the evaluation, the first is row 3 \(hotpotqa:test:0\)"
    ):
        list(TrajectoryFile(other).demonstrations(made, "train"))
    kept = list(TrajectoryFile(other, "leave_out").demonstrations(made, "train"))
    assert len(kept) == 3
    with pytest.raises(InputError, match=r"questions are in two splits.*held_out=leave_out"):
        QA(FileQuestions([{"path": other}], test=[{"path": test, "task": "hotpotqa"}])).scenarios("train")
    left = FileQuestions(
        [{"path": own}, {"path": other}], test=[{"path": test, "task": "hotpotqa"}], held_out="leave_out"
    )
    assert "hotpotqa:other:3" not in {each.id for each in left.scenarios("train")}


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    path = file(tmp_path, ROWS)
    with pytest.raises(InputError, match="not of deal: use game=qa"):
        list(TrajectoryFile(path).demonstrations(Deal(), "train"))
    with pytest.raises(FileNotFoundError, match="give experts' trajectories"):
        TrajectoryFile(str(tmp_path / "gone.json"))
    with pytest.raises(InputError, match=r"rows\.json, row 1: lacks the key 'output'"):
        TrajectoryFile(file(tmp_path, [ROWS[0], {"instruction": "a"}]))._rows  # noqa: B018
    with pytest.raises(InputError, match="no such script for one role"):
        list(ScriptRollouts("oracle").demonstrations(QA(TwoHop()), "train"))
    memo = tmp_path / "memo.jsonl"
    memo.write_text("")
    with pytest.raises(InputError, match="it asks search, which lies outside of the match"):
        list(ScriptRollouts("expert").demonstrations(QA(TwoHop(), "memo", memo=str(memo)), "train"))


def test_a_scripts_rollouts_bear_the_scenarios_ids_and_depend_on_the_seed() -> None:
    made = QA(TwoHop(), steps=5)
    one, again, other = (list(ScriptRollouts("sloppy", seed).demonstrations(made, "test")) for seed in (0, 0, 1))
    assert [each.id for each in one] == [each.id for each in made.scenarios("test")]
    assert one == again != other


def matches() -> list[Episode]:
    """Two matches of one question, the second wrong, one of another, and one that was never finished."""
    made, found = QA(TwoHop(), steps=3), []
    scenarios = made.scenarios("test")
    right = f"Thought: sure\nAction: finish[{scenarios[0].data['answers'][0]}]"
    for number, (scenario, replies) in enumerate(
        [
            (scenarios[0], ["Action: search[zebra]", "nonsense", right]),
            (scenarios[0], ["Action: finish[the moon]"]),
            (scenarios[1], ["Action: finish[the moon]"]),
            (scenarios[2], ["Action: search[a]"] * 3),
        ]
    ):
        match, turns, left = made.match(scenario, 0), [], list(replies)
        requests = match.start()
        while requests:
            (request,) = requests
            service: Any = made.services["search"]
            text = left.pop(0) if request.seat == "agent" else service(request, Random(0), Random(0))
            turns.append(Turn(request.id, request.seat, request.kind, text))
            requests = match.step([Reply(request.id, text)])
        who = {"agent": "me", "search": "search"}
        found.append(Episode(f"m{number}", "qa", 1, scenario, 0, who, {}, tuple(turns), match.result()))
    return found


def test_matches_are_written_as_published_and_read_again(tmp_path: Path) -> None:
    found = dict(trajectories.entries(matches()[:1] + matches()[2:]))
    assert len(found) == 2
    first = next(iter(found.values()))
    assert first.scores["reward"] is True and first.scores["f1"] == 1.0
    assert first.steps.observations == (
        "None",
        "Episode finished, reward = True",
    )  # of the illegal reply nothing is left
    path = tmp_path / "trajectories.json"
    path.write_text(json.dumps({name: each.to_json() for name, each in found.items()}))
    assert trajectories.read_entries(path) == found
    rows = trajectories.alpaca(found.values())
    assert len(rows) == 2 and len(trajectories.alpaca(found.values(), right=True)) == 1
    assert [to_row(each) for each in trajectories.read_rows(file(tmp_path, rows))] == rows
    (contrast,) = trajectories.contrasts(matches())
    assert "reward = True" in contrast["chosen"] and "finish[the moon]" in contrast["rejected"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"traj": "x"}, "lacks the reward"),
        ({"reward": True, "traj": "x"}, "neither a chat nor in the Alpaca layout"),
        ({"reward": True, "traj": [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}]}, "in turn"),
        ({"reward": True}, "lacks the key 'traj'"),
    ],
)
def test_a_bad_trajectory_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"rows\.json, trajectory 7: .*{said}"):
        trajectories.read_entries(file(tmp_path, {"7": entry}))


@published
@pytest.mark.parametrize("name", ["llama2_7b", "llama2_13b", "gpt35"])
def test_published_trajectories_are_written_as_they_were(name: str) -> None:
    path = DATA / f"trajectories_{name}.json"
    entries = trajectories.read_entries(path)
    assert {index: each.to_json() for index, each in entries.items()} == json.loads(path.read_text())


@published
@pytest.mark.parametrize("name", ["hotpotqa_500", "multitask_1344"])
def test_published_rows_are_written_as_they_were(name: str) -> None:
    path = DATA / f"react_gpt4_{name}.json"
    assert [to_row(each) for each in trajectories.read_rows(path)] == json.loads(path.read_text())


@published
def test_right_against_wrong_of_the_published_runs() -> None:
    one, other = (trajectories.read_entries(DATA / f"trajectories_{name}.json") for name in ("llama2_7b", "llama2_13b"))
    rows = trajectories.right_against_wrong(one, other)
    assert len(one.keys() & other.keys()) == 499 and len(rows) == 103
    assert all("reward = True" in each["chosen"] and "reward = False" in each["rejected"] for each in rows)


@published
def test_499_of_the_500_experts_rows_replay_and_one_asks_five_things_at_once() -> None:
    made = game(path := str(DATA / "react_gpt4_hotpotqa_500.json"))
    with pytest.warns(UserWarning, match="1 of 500 rows are left out .*1 illegal"):
        kept = {each.id for each in replayed(made, path)}
    left = {f"hotpotqa:react_gpt4_hotpotqa_500:{n}" for n in range(500)} - kept
    assert left == {"hotpotqa:react_gpt4_hotpotqa_500:406"}


@published
def test_questions_of_strategyqas_evaluation_are_among_the_published_experts_rows() -> None:
    dev = [{"path": str(DATA / "strategyqa_dev.json"), "task": "strategyqa"}]
    with pytest.raises(InputError, match="37 questions are in two splits"):
        FileQuestions([{"path": str(DATA / "react_gpt4_multitask_1344.json")}], 0.1, dev).scenarios("train")
