"""Tasks of the games of others: a benchmark from the command line, its results read back, the list of games."""

import importlib.util
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.cli.tasks import importing, opengames
from parley.run.config import ConfigError

GAMES = str(Path(__file__).parents[1] / "fixtures" / "clembench")
needs_clemcore = pytest.mark.skipif(
    not (importlib.util.find_spec("clemcore") and importlib.util.find_spec("greenlet")), reason="needs make clembench"
)


@needs_clemcore
def test_a_benchmark_is_played_written_and_read_back(tmp_path):
    words = [
        "task=clembench", "game=clembench_suite", f"game.path={GAMES}", "play.sampling.max_tokens=4",
        "imitate.matches=4", "imitate.validation=2", "imitate.players=[said]", "metric=sampled.numbers.main_score",
        "+game.options.scripted={said: {_target_: clem_said.said, _partial_: true}}", "players.default=said",
        "task.group=2", "task.layout=epochs", "task.splits=[test]",
    ]  # fmt: skip
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", words)
    score = instantiate(config.task, _partial_=True)(config, tmp_path)
    head, row = (tmp_path / "results" / "results.csv").read_text().splitlines()
    assert head.startswith(',"-, clemscore"') and row.startswith(f"said,{score:.10g}")
    sure = json.loads((tmp_path / "clemscore.json").read_text())
    assert sure["mean"] == pytest.approx(score, abs=0.02) and (sure["n"], sure["clusters"]) == (12, 6)
    stored = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json") if "results" not in path.parts]
    assert sure in [each["outputs"]["clemscore"] for each in stored if "clemscore" in each.get("outputs", {})]
    assert {path.name for path in (tmp_path / "results" / "said").glob("epoch_*")} == {"epoch_00001", "epoch_00002"}
    importing.bring(config, tmp_path / "rows", str(tmp_path / "results"))
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    assert {row["meta"]["game"] for row in rows} == {"numbers", "asked"} and all(row["messages"] for row in rows)


def test_a_benchmark_is_of_clembench():
    from parley.games.deal import Deal

    with pytest.raises(ConfigError, match="deal is none: say game=clembench"):
        opengames.members(Deal())


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.path: .* holds no interactions"):
        importing.bring(None, tmp_path / "out", str(tmp_path))


def test_the_list_of_games_names_what_each_lacks(capsys, tmp_path):
    opengames.games(None, tmp_path, GAMES)
    told = capsys.readouterr().out
    assert "numbers_shown" in told and "shows images" in told and "textarena" in told
