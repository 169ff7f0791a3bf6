"""A stranger's tool for question answering: one file and one YAML in a folder of their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.main import check as check_command
from parley.games import conformance
from parley.games.base import Message, Reply, Request, Tool
from parley.games.qa import QA, TwoHop
from parley.run.build import build
from parley.run.config import ConfigError

from commands import output

EXAMPLES = Path(__file__).parents[2] / "examples"
NONE = "not a sum of numbers"
WORDS = ["hydra.searchpath=[file://conf]", "experiment=qa_tiny", "game=qa_calculate"]


@pytest.fixture(scope="module")
def calculate() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("calculate", EXAMPLES / "calculate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.Calculate()


def asked(argument: str) -> Request:
    return Request("calculate.1", "calculate", (Message("user", argument),), "tool", observation={"argument": argument})


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("2 * (3 + 4)", "14"), ("-1/3", "-0.333333"), ("1e3 - 1", "999"), ("1/0", "division by zero"),
        ("2 ** 9999", NONE), ("__import__('os')", NONE), ("a + 1", NONE),
        ("True + 1", NONE), ("'a' * 9", NONE), ("(" * 150, NONE),
        ("1" + "+1" * 200, NONE), ("9" * 190 + "*1e308", "too large"), ("\x00", NONE),
    ],
)  # fmt: skip
def test_sums_are_worked_out_and_nothing_else_is_run(calculate: Any, argument: str, answer: str) -> None:
    assert calculate.answer(asked(argument)) == answer


def test_the_agent_is_told_of_both_tools_and_may_call_them(calculate: Any) -> None:
    game = QA(TwoHop(), tools={"calculate": calculate})
    conformance.check(game, matches=12)
    match = game.match(game.scenarios("test")[0], 0)
    (first,) = match.start()
    assert "calculate[…]: works out a sum" in first.messages[0].content and "search[…]" in first.messages[0].content
    (request,) = match.step([Reply(first.id, "Action: calculate[2 * 21]")])
    assert request.seat == "calculate" and isinstance(game.services["calculate"], Tool)
    (second,) = match.step([Reply(request.id, calculate.answer(request))])
    assert second.messages[-1].content == "Observation: 42"
    match.step([Reply(second.id, "Action: finish[42]")])
    assert match.result().metrics["searches"] == 1


def test_it_is_added_from_a_folder_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    check_command(WORDS)
    with pytest.raises(ConfigError, match="digit"):
        check_command([*WORDS, "game.tools.calculate.digit=3"])


def test_a_tool_that_is_a_dataclass_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra makes a config of a dataclass inside a mapping, without its properties, unless it is told otherwise."""
    (tmp_path / "sayer.py").write_text(
        "from dataclasses import dataclass\nfrom parley.games import Tool\n\n@dataclass(frozen=True)\nclass Sayer:\n"
        "    says: str = 'says hello.'\n\n    @property\n    def service(self):\n"
        "        return Tool(lambda: lambda request: 'hello')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["experiment=qa_tiny", "+game.tools.greet._target_=sayer.Sayer"])
    game = build(config, tmp_path).game
    assert "greet[…]" in game.match(game.scenarios("train")[0], 0).start()[0].messages[0].content


def test_a_run_with_it_plays(tmp_path: Path) -> None:
    small = ["model.width=32", "model.layers=1", "model.mlp=64", "play.scenarios=4", "play.group=1", "play.in_flight=8"]
    made = ["game.questions.validation=0.3", "game.questions.test=0.6", "imitate.learner.epochs=1"]
    words = [
        *WORDS[1:],
        *small,
        *made,
        "task=play",
        f"hydra.run.dir={tmp_path}/run",
        f"hydra.searchpath=[file://{EXAMPLES}/conf]",
    ]
    assert "searches" in output(*words, folder=EXAMPLES) and not list(EXAMPLES.glob("outputs"))
