"""A stranger adds a game as docs/add_a_game.md says: one file and one YAML in a folder of their own, nothing of ours
edited."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from parley.cli.main import check as check_command
from parley.games import conformance
from parley.games.base import Reply
from parley.run.config import ConfigError

from commands import output

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "add_a_game.md").read_text()
COMMAND = "python -m parley 'hydra.searchpath=[file://conf]' experiment=safecracker"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def game():
    spec = importlib.util.spec_from_file_location("safecracker", EXAMPLES / "safecracker.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["safecracker"] = module  # as an installed module would be; dataclasses look there
    spec.loader.exec_module(module)
    yield module.Safecracker()
    del sys.modules["safecracker"]


def test_the_page_shows_the_files_that_are_tested():
    assert blocks("python")[0] == (EXAMPLES / "safecracker.py").read_text()
    assert blocks("yaml")[0] == (EXAMPLES / "conf" / "experiment" / "safecracker.yaml").read_text()
    assert COMMAND in blocks("sh")[0]


def test_a_misspelt_argument_is_told(game, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    with pytest.raises(ConfigError, match=r"one fault.*\n.*did you mean game\.wheels\?"):
        check_command([*shlex.split(COMMAND)[3:], "game.weels=4"])


@pytest.mark.parametrize("check", conformance.CHECKS.values(), ids=conformance.CHECKS)
def test_the_game_passes_the_kit(game, check):
    check(game, matches=40, seed=1)


def test_the_kit_as_the_page_runs_it(game):
    exec(compile(blocks("python")[1], "add_a_game.md", "exec"), {})  # our own text


def test_a_careful_pair_opens_every_safe(game):
    careful = game.scripts()["careful"]
    for scenario in game.scenarios("test"):
        match = game.match(scenario, 0)
        requests = match.start()
        while requests:
            requests = match.step([Reply(request.id, careful(request, Random(0), Random(0))) for request in requests])
        assert match.result().outcome == "opened" and match.result().returns == {"spy": 3, "agent": 3}


# --- training
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The page's command in a folder that holds the two files and nothing else."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copy(EXAMPLES / "safecracker.py", folder)
    shutil.copytree(EXAMPLES / "conf", folder / "conf")
    command = [sys.executable, *shlex.split(COMMAND)[1:], "hydra.run.dir=run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


@pytest.mark.slow
def test_the_trained_model_beats_its_start(run):
    summary = json.loads((run / "summary.json").read_text())
    start, kept = (summary["iterations"][at]["policies"]["learner"] for at in (0, summary["best"]))
    assert summary["best"] > 0
    assert kept["sampled"]["score"]["low"] > start["sampled"]["score"]["high"] + 0.3  # seed 0: 2.70 and 1.96
    assert kept["sampled"]["score"]["low"] > summary["demonstrators"]["score"]["high"]
    assert summary["improvement_greedy"]["learner"]["low"] > 0.5  # it is not only surer of itself: seed 0 has 1.32
    assert summary["cpu_seconds"] < 60


@pytest.mark.slow
def test_its_matches_replay_and_its_report_defines_its_metrics(run):
    match = (
        sorted(path for path in (run / "iter_002" / "play").glob("*.jsonl"))[0]
        .read_text()
        .split('"id":"')[1]
        .split('"')[0]
    )
    words = ["hydra.searchpath=[file://conf]", "experiment=safecracker", "task=replay", f"run={run}", f"match={match}"]
    assert "same" in output(*words, folder=run.parent)
    assert "1 if every digit was right" in (run / "report" / "index.html").read_text()


@pytest.mark.slow
def test_every_logged_figure_is_defined(run, game):
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {
        key.rpartition(".")[2] for row in rows for key in row if not key.startswith("seconds.")
    } - game.facts.metrics.keys()
    names |= json.loads((run / "summary.json").read_text()).keys()
    names |= {key.partition(".")[0] for row in rows for key in row}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
