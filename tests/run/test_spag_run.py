"""SPAG's method end to end on a small Taboo, in one process: the figures against the start, its files out and in
again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import exporting, training
from parley.credit import SpagCredit
from parley.data.formats import spag
from parley.report.progress import Progress
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.loop import Loop
from parley.run.run import Run
from parley.system.files import InputError
from rich.console import Console

SMALL = [
    "experiment=spag_tiny", "iterations=2", "play.scenarios=12", "play.group=2", "eval.scenarios=5", "eval.greedy=3",
    "eval.validation=3",
    "eval.group=2", "eval.final=3", "eval.validation_group=2",
    "eval.opponents=[previous,fair]", "imitate.matches=60", "imitate.validation=4", "model.width=32", "model.layers=1",
    "model.mlp=64", "learner.epochs=1", "eval.transcripts=1",
]  # fmt: skip


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*SMALL, *words])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    run = tmp_path_factory.mktemp("spag") / "run"
    return run, training.selfplay(config("data.rows=2"), run)


def test_a_run_is_judged_against_its_start(whole):
    run, figure = whole
    summary = json.loads((run / "summary.json").read_text())
    rows = [row["policies"]["learner"] for row in summary["iterations"]]
    first, _, third = rows
    assert summary["start"] == "imitation" and summary["metric"] == "win_rate"
    assert figure == rows[summary["best"]]["versus"]["imitation"]["win_rate"]["mean"]
    assert set(first["versus"]) == {"imitation", "fair"} and {"imitation", "previous"} <= set(third["versus"])
    for at, row in enumerate(rows):  # eval.final matches of a word and seat for start and kept, else eval.group
        against, often = row["versus"]["imitation"], 15 if at in (0, summary["best"]) else 10
        assert {against[name]["n"] for name in ("attacker_win_rate", "defender_win_rate", "attacker_break_rate")} == {
            often
        }
        assert row["validation"]["win_rate"]["n"] == 12 and row["sampled"]["win_rate"]["n"] == 10
    gains = summary["gains"]["learner"]["attacker_win_rate"]
    after, before = (row["versus"]["imitation"]["attacker_win_rate"]["mean"] for row in (rows[summary["best"]], first))
    assert gains["mean"] == pytest.approx(after - before, abs=1e-5) and gains["n"] == 5


def test_the_imitation_data_are_scripted_matches_and_facts(whole):
    run, _ = whole
    learned = json.loads((run / "iter_000/start/stage.json").read_text())["outputs"]["learn"]
    assert 100 < learned["samples"] - 640 <= 2 * 60  # a match that the first utterance breaks has no defender


def test_a_round_mixes_in_facts_and_no_matches(whole):
    run, _ = whole
    loop = Loop(Run(build(config("data.rows=2"), run), run, Progress(Console(quiet=True))))
    [first] = loop.of(1)
    facts = loop.crediting.mixed(first, SpagCredit(mix=100))
    assert len(facts) == 100 and all(demo.id.startswith("associations/name/") for demo in facts)
    loop.config.imitate.mixed = ""
    assert {demo.id.split("/")[0] for demo in loop.crediting.mixed(first, SpagCredit(mix=300))} == {
        "associations",
        "demonstrations",
    }
    loop.config.imitate.mixed = "fact"
    with pytest.raises(InputError, match="begins so"):
        loop.crediting.mixed(first, SpagCredit(mix=100))


def test_its_matches_leave_as_spags_files_and_come_back_as_data(whole, tmp_path):
    run, _ = whole
    exporting.export(config(), tmp_path / "out", str(run), "credit", None)
    games = spag.read_episodes(tmp_path / "out/spag_episodes.json")
    assert len(games) == 2 * 24 and {game.turns for game in games} == {5}
    rows = spag.read_rows(tmp_path / "out/spag_rows.json")
    assert rows and {row.role for row in rows} <= {"attacker", "defender"}
    again = config(
        "data=spag",
        f"data.path={tmp_path}/out/spag_rows.json",
        "imitate.matches=0",
        "objective.form=faithful",
        "play.group=1",
    )
    training.offline(again, tmp_path / "offline")
    learned = json.loads((tmp_path / "offline/iter_001/learn/stage.json").read_text())["outputs"]["learner"]["learn"]
    assert learned["utterances"] == len(rows) and learned["steps"] >= 1


def test_offline_wants_rewards(tmp_path):
    with pytest.raises((InputError, ConfigError), match="data=spag"):
        training.offline(config(), tmp_path / "run")
