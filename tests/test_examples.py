"""What strangers write: examples/ beside the game of tests/test_stranger.py, each one file and one YAML."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from parley import Episode
from parley.cli.main import check as check_command
from parley.games import Scenario, conformance
from parley.models.tiny import Tiny
from parley.objectives import conformance as losses
from parley.run.match import play_match

from commands import output

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "extend.md").read_text()
GAMES = {"ladder": "Ladder", "auction": "Auction", "lookup": "Lookup"}


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """Python finds the files where `python -m parley` would: in the folder that it is run in."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(EXAMPLES)
    yield
    for name in [*GAMES, "ipo", "group_advantages", "brevity"]:
        sys.modules.pop(name, None)


def load(module: str, name: str, *args, **more):
    return getattr(importlib.import_module(module), name)(*args, **more)


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("game", GAMES)
def test_the_games_pass_the_kit(game, check):
    conformance.CHECKS[check](load(game, GAMES[game]), 12, 0)


def score(game, scenario: Scenario, players: dict[str, str]) -> dict[str, float]:
    return dict(play_match(game, players, scenario).result.returns)


def test_halving_always_finds_the_number():
    game = load("ladder", "Ladder")
    found = [score(game, each, {"seeker": "halving"})["seeker"] for each in game.scenarios("test")]
    assert min(found) == 2 and max(found) == 6 and len(found) == 31  # 31 numbers are halved away in five guesses


def test_nobody_gains_by_another_bid_than_the_truth():
    game = load("auction", "Auction", items=1)
    for scenario in game.scenarios("test"):
        honest = score(game, scenario, dict.fromkeys(game.roles, "truthful"))
        (worth,) = scenario.data["values"]
        highest, second = sorted(worth)[:0:-1]
        assert sum(honest.values()) == highest - second
        shy = score(game, scenario, {"ann": "shy", "ben": "truthful", "cem": "truthful"})
        assert shy["ann"] <= honest["ann"]


def test_the_tool_is_asked_and_stands_in_the_record():
    game = load("lookup", "Lookup")
    scenario = game.scenarios("test")[0]
    episode = play_match(game, {"reader": "careful"}, scenario)
    assert [turn.seat for turn in episode.turns] == ["reader", "book", "reader"]
    assert episode.result.returns == {"reader": 1} and episode.turns[1].text == episode.turns[2].text


def test_ipo_keeps_the_contract_and_pulls_the_margin_to_its_mark():
    loss = load("ipo", "IPO", tau=0.25)
    losses.check(loss, pairs=True)
    for seed in range(8):
        rows = losses.drawn(seed, pairs=True)
        margins: dict[int, float] = {}
        for row in rows:
            margins[row.pair] = margins.get(row.pair, 0.0) + row.side * (sum(row.logp) - sum(row.ref))
        found, figures, _ = losses.run(loss, losses.cut(rows, seed))
        assert found == pytest.approx(fmean((each - 2.0) ** 2 for each in margins.values()))
        assert figures["margin"] == pytest.approx(fmean(margins.values()))


def call(prompt: list[int], sampled: list[int], parent: str | None = None, shared: int = 0) -> dict:
    made = {"policy": "p", "prompt_ids": prompt, "sampled_ids": sampled, "logprobs": [-1.0] * len(sampled)}
    return {**made, "parent": parent, "shared": shared}


def episodes(scores: dict[str, list[float]]) -> list[Episode]:
    """Matches of a game for one with these payoffs, by scenario; two replies of two tokens and two words each."""
    calls = [call([1, 2], [3, 4]), call([5], [6, 7], "s.1", 4)]
    turns = [
        {"request": f"s.{at}", "seat": "s", "kind": "act", "text": "a b", "finish": "stop", "call": each}
        for at, each in enumerate(calls, 1)
    ]
    common = {"schema": 2, "game": "g", "game_version": 1, "seed": 0, "turns": turns, "parent": None}
    common |= {"players": {"s": "learner"}, "policies": {"s": "p"}}
    rest = {"outcome": "x", "blame": [], "metrics": {}, "marks": {}}
    made = []
    for name, payoffs in scores.items():
        scenario = {"id": name, "data": {}, "cluster": name}
        for number, payoff in enumerate(payoffs):
            result = {"returns": {"s": payoff}, **rest}
            made.append(Episode.from_json({**common, "id": f"{name}/{number}", "scenario": scenario, "result": result}))
    return made


def test_advantages_are_those_of_the_group():
    credit = load("group_advantages", "GroupAdvantages")
    found = credit(episodes({"a": [0, 1, 1, 2], "b": [5, 5, 5, 5]}), "learner")
    rewards = {sample.id: [each.reward for each in sample.utterances] for sample in found.samples}
    expected = {"a/0/s/0": -(2**0.5), "a/1/s/0": 0.0, "a/2/s/0": 0.0, "a/3/s/0": 2**0.5}
    assert rewards == {name: pytest.approx([each, each]) for name, each in expected.items()}
    assert [verdict.kept for verdict in found.table] == [True] * 4 + [False] * 4


def test_brevity_counts_words():
    (match,) = episodes({"a": [1.0]})
    brief = [load("brevity", "Brevity", words=words)(match)["brief"]["s"] for words in (2, 1.6, 1)]
    assert brief == [1.0, pytest.approx(0.75), 0.0]


@pytest.mark.parametrize("command", re.findall(r"^python -m parley (.*?)(?: +#.*)?$", PAGE, re.M))
def test_the_commands_of_the_page_compose(command):
    check_command(command.split())


@pytest.mark.parametrize("file", re.findall(r"^`(\w+\.py)`.*:$", PAGE, re.M))
def test_the_page_shows_the_files_that_are_tested(file):
    assert (EXAMPLES / file).read_text() in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_ten_lines_load_a_snapshot_and_play(tmp_path, capsys, monkeypatch):
    game = importlib.import_module("parley.games.deal").Deal()
    script, chats = game.scripts()["fair"], []
    match = game.match(game.scenarios("train")[0], 0)
    requests = match.start()
    while requests:
        chats += [request.messages for request in requests]
        replies = [(request, script(request, Random(0), Random(0))) for request in requests]
        requests = match.step([importlib.import_module("parley.games").Reply(r.id, text) for r, text in replies])
    Tiny(width=32, heads=2, layers=1, mlp=64, context=256).create(tmp_path / "model", chats, 0)
    monkeypatch.setattr(sys, "argv", ["play.py", str(tmp_path / "model")])
    exec(compile((EXAMPLES / "play.py").read_text(), "play.py", "exec"), {})
    assert "outcome: " in capsys.readouterr().out


@pytest.mark.slow
def test_credit_objective_and_scorer_train_together(tmp_path):
    """The stranger's game with a stranger's credit and scorer: what the scorer says is what the credit compares."""
    for file in ("safecracker", "group_advantages", "brevity"):
        shutil.copy(EXAMPLES / f"{file}.py", tmp_path)
    shutil.copytree(EXAMPLES / "conf", tmp_path / "conf")
    words = "--config-dir conf experiment=safecracker debug=fast objective=grouped scorer=brevity hydra.run.dir=run"
    output(*words.split(), folder=tmp_path)
    row = json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"][1]["policies"]["learner"]
    assert 0 <= row["scores"]["brief"]["mean"] <= 1 and row["play"]["kept"] > 0 and "kl" in row["learn"]
