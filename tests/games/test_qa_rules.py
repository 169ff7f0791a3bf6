"""Question answering with tools: grammar, rewards, the match, prompts, layouts and files of questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from parley.games import conformance
from parley.games.base import Illegal, Reply, Request, Scenario, Script
from parley.games.qa import QA, FileQuestions, TwoHop
from parley.games.qa.grammar import Action, parse
from parley.games.qa.questions import question
from parley.games.qa.scoring import TASKS, exact, f1, normalise
from parley.games.qa.trajectory import from_row
from parley.system.files import InputError

TOOLS = ("search",)


class Quiz:
    """A few questions of every task, with documents of their own."""

    files: Mapping[str, str] = {}
    tasks = tuple(TASKS)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        answers = {"hotpotqa": "Vienna", "bamboogle": "1797", "strategyqa": "no", "mmlu": "B"}
        documents = [{"title": "Austria", "text": "Vienna is\nits   capital."}]
        return [
            question(f"{task}:{split}:{n}", task, f"{task} question {n} of {split}?", [answer], documents=documents)
            for n in range(3)
            for task, answer in answers.items()
        ]

    def scripts(self) -> Mapping[str, Script]:
        return {}


def told(text: str, finish: Any = "stop") -> Action | Illegal:
    return parse(Reply("agent.1", text, finish), TOOLS)


def play(game: QA, scenario: Scenario, *replies: str | Reply) -> tuple[list[Request], Any]:
    """Requests and result of a match; the game's own script serves."""
    match, given, asked = game.match(scenario, 0), list(replies), []
    requests = match.start()
    while requests:
        (request,) = requests
        asked.append(request)
        if request.seat == "agent":
            reply = given.pop(0)
            reply = Reply(request.id, reply) if isinstance(reply, str) else Reply(request.id, reply.text, reply.finish)
        else:
            service: Any = game.services[request.seat]
            reply = Reply(request.id, service(request, Random(0), Random(0)))
        requests = match.step([reply])
    assert not given
    return asked, match.result()


@pytest.mark.parametrize(
    ("text", "name", "argument", "thought"),
    [
        ("Action: search[Tetro]", "search", "Tetro", ""),
        ("Thought: who?\nAction: search[ the  director ]", "search", "the director", "who?"),
        ("\n Thought: \nAction:finish [42]\n", "finish", "42", ""),
        ("Thought: Action: search[a]\nAction: finish[b]", "finish", "b", "Action: search[a]"),
        ("Thought: [x] (y)\n\n Action: finish[Zürich, 1900]", "finish", "Zürich, 1900", "[x] (y)"),
    ],
)
def test_legal_replies(text: str, name: str, argument: str, thought: str) -> None:
    assert told(text) == Action(name, argument, thought)
    assert told(Action(name, argument, thought).text()) == Action(name, argument, thought)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no action"),
        ("Thought: I know it.", "no action"),
        ("Action: search[a", "no action"),
        ("Action: search a]", "no action"),
        ("Action: search[a[b]]", "no action"),
        ("Action: search[a\nb]", "no action"),
        ("Action: search[a] and then", "no action"),
        ("Action: search[a]\nAction: finish[b]", "no action"),
        ("Action: search[a]\nObservation: b\nThought: c\nAction: finish[b]", "no action"),
        ("Well.\nAction: search[a]", "no action"),
        ("Thought: a Action: finish[b]", "no action"),
        ("action: finish[b]", "no action"),
        ("Action: Finish[b]", "unknown action"),
        ("Action: lookup[b]", "unknown action"),
        ("Action: finish[ ]", "no argument"),
    ],
)
def test_illegal_replies(text: str, reason: str) -> None:
    found = told(text)
    assert isinstance(found, Illegal) and found.reason == reason and "finish[…]" in found.told


def test_a_reply_that_was_cut_or_refused_is_illegal_even_if_it_reads_well() -> None:
    assert told("Action: finish[b]", "length") == Illegal("cut", told("Action: finish[b]", "length").told)  # type: ignore[union-attr]
    found = told("Action: finish[b]", "refusal")
    assert isinstance(found, Illegal) and found.reason == "refusal"


def test_normalisation_and_f1_by_hand() -> None:
    assert normalise("  The U.S.,   an Apple-pie! ") == "us applepie"
    assert exact("The Danube.", "danube") == 1 and exact("Danube river", "Danube") == 0
    assert f1("river Danube", "the Danube") == pytest.approx(2 / 3)
    assert f1("yes", "no") == f1("yes", "yes it is") == f1("no", "norway") == 0 and f1("Yes.", "yes") == 1
    assert f1("a b b c", "b b b") == pytest.approx(2 * 2 / (3 + 3))  # "a" is an article


@pytest.mark.parametrize(
    ("task", "answer", "gold", "corrected", "faithful"),
    [
        ("strategyqa", "Yes, it is", "yes", 1, 1),
        ("strategyqa", "not sure", "no", 0, 1),  # the published reward takes it for a no
        ("strategyqa", "yesterday", "yes", 0, 1),
        ("mmlu", "B. Mercury", "B", 1, 1),
        ("mmlu", "(b)", "B", 1, 0),
        ("mmlu", "a horse", "A", 0, 1),
        ("mmlu", "A, D", "A", 0, 1),
        ("hotpotqa", "the Danube", "Danube", 1, 1),
    ],
)
def test_rewards_of_the_tasks(task: str, answer: str, gold: str, corrected: float, faithful: float) -> None:
    assert TASKS[task].score(answer, [gold], "corrected")["em"] == corrected
    assert TASKS[task].score(answer, [gold], "faithful")["em"] == faithful
    assert TASKS[task].score(None, [gold], "corrected")["em"] == 0


def test_a_match_from_question_to_answer() -> None:
    game = QA(Quiz())
    asked, result = play(
        game, Quiz().scenarios("test")[0], "Thought: hm\nAction: search[Austria's capital]", "oops",
        "Action: search[zebra]", "Action: finish[the Vienna]",
    )  # fmt: skip
    assert [request.id for request in asked] == ["agent.1", "search.1", "agent.2", "agent.3", "search.2", "agent.4"]
    last = [(message.role, message.content) for message in asked[-1].messages]
    assert last[1:4] == [
        ("user", "hotpotqa question 0 of test?"),
        ("assistant", "Thought: hm\nAction: search[Austria's capital]"),
        ("user", "Observation: Vienna is its capital."),
    ]
    assert last[-1] == ("user", "Observation: None") and "Invalid (no action)" in last[5][1]
    assert result.outcome == "right" and result.returns == {"agent": 1.0}
    assert result.marks == {"agent.2": {"retry": "no action"}}
    figures = {"em": 1, "f1": 1, "searches": 2, "tool_empty_rate": 0.5, "steps": 3, "retries": 1, "invalid_rate": 0}
    assert {name: result.metrics[name] for name in figures} == figures
    assert result.metrics["hotpotqa.em"] == 1 and "mmlu.em" not in result.metrics


def test_other_endings() -> None:
    game, scenario = QA(Quiz(), steps=2), Quiz().scenarios("test")[2]  # strategyqa
    assert play(game, scenario, "Action: finish[yes]")[1].outcome == "wrong"
    _, late = play(game, scenario, *["Action: search[Austria]"] * 2)
    assert late.outcome == "unfinished" and late.metrics["em"] == 0 and late.metrics["finished_rate"] == 0
    _, broken = play(game, scenario, "x", "y")
    assert broken.outcome == "broken" and broken.blame == ("agent",) and broken.metrics["invalid_rate"] == 1
    _, full = play(game, scenario, Reply("", "", "context"))
    assert full.outcome == "context" and full.blame == ("agent",) and "f1" not in full.metrics


def test_no_gold_answer_and_no_reward_is_told_to_the_agent() -> None:
    game = QA(Quiz(), layout="few_shot", prompt="published")
    for scenario in Quiz().scenarios("test"):
        hidden = {**scenario.data, "answers": ["Quetzal"]}
        asked, _ = play(game, Scenario(scenario.id, hidden), "Action: search[Austria]", "Action: finish[b]")
        shown = json.dumps([asdict(request) for request in asked if request.seat == "agent"])
        assert "Quetzal" not in shown and "reward" not in shown.lower()


@pytest.mark.parametrize("layout", ["chat", "alpaca", "few_shot"])
@pytest.mark.parametrize("prompt", ["compact", "full", "published"])
def test_every_prompt_and_layout_conforms(layout: Any, prompt: Any) -> None:
    conformance.check(QA(Quiz(), layout=layout, prompt=prompt, steps=3), matches=20)


def test_layouts_tell_the_same_question() -> None:
    first = {
        layout: QA(Quiz(), layout=layout).match(Quiz().scenarios("test")[2], 0).start()[0].messages  # type: ignore[arg-type]
        for layout in ("chat", "alpaca", "few_shot")
    }
    asked = "strategyqa question 0 of test?"
    assert [message.role for message in first["chat"]] == ["system", "user"] and first["chat"][1].content == asked
    (alpaca,), (shots,) = first["alpaca"], first["few_shot"]
    assert alpaca.content.startswith("Below is an instruction") and f"### Instruction:\n{asked}\n\n" in alpaca.content
    assert shots.content.endswith(f"Yes or no: {asked}") and shots.content.count("Action: finish[") == 4


def test_unrelated_observations_are_about_another_question_and_depend_on_the_seed() -> None:
    game, plain = QA(TwoHop(), unrelated=True, steps=5), QA(TwoHop(), steps=5)
    scenario = plain.scenarios("test")[0]
    who, what, where = scenario.id.partition(":")[2].split("-")
    asked, _ = play(plain, scenario, f"Action: search[{who}]", f"Action: search[{what}]", f"Action: finish[{where}]")
    assert asked[2].messages[-1].content == f"Observation: {who} likes {what} ."
    requests = [game.match(scenario, seed) for seed in (1, 1, *range(2, 12))]
    found = []
    for match in requests:
        (first,) = match.start()
        (tool,) = match.step([Reply(first.id, f"Action: search[{who}]")])
        found.append(tool.messages[0].content)
    assert found[0] == found[1] and len(set(found)) > 3 and scenario.data["question"] not in found


@pytest.mark.parametrize("unrelated", [False, True])
def test_two_hop_conforms_and_its_expert_is_right(unrelated: bool) -> None:
    game = QA(TwoHop(), prompt="compact", steps=5, unrelated=unrelated)
    conformance.check(game, matches=40)
    expert, outcomes = game.scripts()["expert"], []
    for scenario in game.scenarios("validation")[:60]:
        match = game.match(scenario, 0)
        requests = match.start()
        while requests:
            (request,) = requests
            script: Any = expert if request.seat == "agent" else game.services["search"]
            requests = match.step([Reply(request.id, script(request, Random(0), Random(0)))])
        outcomes.append(match.result().outcome)
    assert set(outcomes) == ({"right"} if not unrelated else {"unfinished", "wrong"}) or unrelated


def test_two_hop_holds_combinations_out_and_no_word() -> None:
    splits = {split: TwoHop().scenarios(split) for split in ("train", "validation", "test")}
    names = {split: {each.id for each in found} for split, found in splits.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 16 * 12 * 12
    words = {
        split: {word for name in found for word in name.split(":")[1].split("-")} for split, found in names.items()
    }
    assert words["train"] == words["test"] == words["validation"]
    for scenario in splits["test"][:50]:
        texts = [each["text"] for each in scenario.data["documents"]]
        who, what, where = scenario.id.split(":")[1].split("-")
        assert f"{who} likes {what} ." in texts and f"{what} comes from {where} ." in texts and len(set(texts)) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps=0"),
        ({"prompt": "long", "layout": "xml"}, "prompt='long'.*layout='xml'"),
        ({"search": "google"}, "search='google', expected one of documents"),
        ({"search": "corpus"}, "search=corpus needs corpus"),
        ({"search": "http"}, "search=http needs url"),
        ({"tools": {"finish": object()}}, "tools.finish: the name is taken"),
        ({"tools": {"look": object()}}, "tools.look has no says"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QA(Quiz(), **options)


# --- files of questions ---


def written(folder: Path, name: str, rows: Any) -> str:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return str(path)


def test_files_of_every_task(tmp_path: Path) -> None:
    hotpot = written(
        tmp_path, "dev.json", [{"question": f"q{n}?", "answer": f"a{n}", "type": "bridge"} for n in range(9)]
    )
    bamboogle = written(tmp_path, "b.csv", 'Question,Answer\n"Who, then?",Ann\n')
    strategy = written(
        tmp_path, "s.json", [{"question": "Is it?", "answer": True}, {"question": "Was it?", "answer": False}]
    )
    mmlu = written(tmp_path, "m.csv", 'Which?,"a, b",c,d,e,C\n')
    found = FileQuestions(
        [{"path": hotpot, "task": "hotpotqa", "shuffle": 233, "end": 3}, {"path": strategy, "task": "strategyqa"}],
        [{"path": mmlu, "task": "mmlu"}],
        [{"path": bamboogle, "task": "bamboogle"}],
    )
    order = list(range(9))
    Random(233).shuffle(order)
    assert [each.id for each in found.scenarios("train")][:3] == [f"hotpotqa:dev:{n}" for n in order[:3]]
    assert [each.data["answers"] for each in found.scenarios("train")][3:] == [["yes"], ["no"]]
    (choice,), (who,) = found.scenarios("validation"), found.scenarios("test")
    assert choice.data["question"] == "Question: Which?\nA. a, b\nB. c\nC. d\nD. e" and choice.data["answers"] == ["C"]
    assert who.data == {"task": "bamboogle", "question": "Who, then?", "answers": ["Ann"]}
    assert set(found.tasks) == set(TASKS) and found.files["train.1"] == strategy
    conformance.check(QA(found), matches=12)


def test_shares_of_a_file_are_held_out_by_question(tmp_path: Path) -> None:
    rows = [{"question": f"Q {n % 150}?", "answer": "x"} for n in range(300)]
    found = FileQuestions([{"path": written(tmp_path, "q.json", rows), "task": "hotpotqa"}])
    sizes = {split: len(found.scenarios(split)) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == 150 and min(sizes.values()) > 5 and sizes["train"] > 100


@pytest.mark.parametrize(
    ("rows", "task", "said"),
    [
        ([{"question": "a?"}], "hotpotqa", "question 0: lacks the key 'answer'"),
        (
            [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": ""}],
            "hotpotqa",
            "question 1: expected a question",
        ),
        ([{"question": "a?", "answer": "b"}], None, "does not tell its task"),
        ([{"question": "a?", "answer": "b"}], "squad", "task='squad', expected one of"),
        ({"question": "a?"}, "hotpotqa", "expected a JSON list"),
        ([{"instruction": "a?", "output": "Thought: b\nAction: search[c]"}], None, "its last action is not finish"),
        ("[1", "hotpotqa", "not JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_row(tmp_path: Path, rows: Any, task: str | None, said: str) -> None:
    path = written(tmp_path, "bad.json", rows)
    with pytest.raises(InputError, match=said):
        FileQuestions([{"path": path, "task": task}]).scenarios("train")


def test_more_bad_selections(tmp_path: Path) -> None:
    path = written(tmp_path, "q.json", [{"question": f"{n}?", "answer": "x"} for n in range(40)])
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        FileQuestions([{"path": "gone.json", "task": "hotpotqa"}])
    with pytest.raises(InputError, match=r"questions\.train: .*unexpected keyword argument 'file'"):
        FileQuestions([{"file": path}])
    with pytest.raises(InputError, match="40 questions, none from 50"):
        FileQuestions([{"path": path, "task": "hotpotqa", "start": 50}]).scenarios("train")
    with pytest.raises(InputError, match="no question is left for train"):
        FileQuestions([]).scenarios("train")


def test_an_evaluation_question_among_training_questions_is_refused(tmp_path: Path) -> None:
    train = written(tmp_path, "train.json", [{"question": f"{n} or more?", "answer": "x"} for n in range(40)])
    test = written(tmp_path, "test.json", [{"question": "The 7, or more", "answer": "x"}])
    with pytest.raises(
        InputError, match="1 questions are in two splits, the first as hotpotqa:train:7 and hotpotqa:test:0"
    ):
        FileQuestions([{"path": train, "task": "hotpotqa"}], 0.1, [{"path": test, "task": "hotpotqa"}]).scenarios(
            "train"
        )


def test_an_experts_row_tells_question_task_and_answer() -> None:
    row = {
        "instruction": "Question: Which?", "input": "",
        "output": "A. x\nB. y\nC. z\nD. w\nThought: I look.\nAction: search[z]\nObservation: none\nhere\nThought: D.\n"
        "Action: finish[D]\nObservation: Episode finished, reward = 1\n",
    }  # fmt: skip
    found = from_row(row)
    assert found.question == "Question: Which?\nA. x\nB. y\nC. z\nD. w" and found.task == "mmlu" and found.answer == "D"
    assert found.replies == ("Thought: I look.\nAction: search[z]", "Thought: D.\nAction: finish[D]")
    assert found.observations == ("none\nhere", "Episode finished, reward = 1")
