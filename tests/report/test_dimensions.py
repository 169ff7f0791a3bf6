"""A judge's ratings by dimension: Sotopia's interval by hand and against its formula, ours beside it, the task."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from random import Random

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import looking
from parley.data.episode import Episode
from parley.data.scorer import write_scores
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Result, Scenario
from parley.report.dimensions import estimated, margin, rated
from parley.run.config import ConfigError
from parley.run.stages import stage


def test_sotopias_interval_by_hand() -> None:
    """Two settings: 4 and 6 (variance 2), 7 alone (0); the mean variance is 1, of three ratings: t(3) sqrt(1 / 3)."""
    rows = [(("e", "a"), 4.0), (("e", "a"), 6.0), (("e", "b"), 7.0)]
    assert margin(rows) == pytest.approx(3.1824 * sqrt(1 / 3)) == pytest.approx(1.83736, abs=1e-5)
    ours, theirs = estimated(rows)
    assert ours.mean == pytest.approx(17 / 3) and ours.clusters == 1 and theirs == margin(rows)
    assert margin([((f"e{at}", "a"), float(at)) for at in range(9)]) == 0.0  # one rating a setting says nothing


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_published_formula(seed: int) -> None:
    """As get_avg_reward goes about it: variances by setting, their mean, over all ratings; a drawn t quantile."""
    numpy = pytest.importorskip("numpy")
    draw = Random(seed)
    rows = [((f"e{draw.randrange(4)}", draw.choice("ab")), draw.uniform(0, 10)) for _ in range(40)]
    by_setting = {setting: [value for one, value in rows if one == setting] for setting in {one for one, _ in rows}}
    variances = [float(numpy.var(own, ddof=1)) if len(own) > 1 else 0.0 for own in by_setting.values()]
    t = numpy.percentile(numpy.random.default_rng(seed).standard_t(df=len(rows), size=1_000_000), 97.5)
    assert margin(rows) == pytest.approx(t * sqrt(sum(variances) / len(variances) / len(rows)), rel=0.01)


def match(number: int, goal: float | None = None) -> Episode:
    players = (
        {"agent_1": "learner", "agent_2": "partner"} if number % 2 else {"agent_1": "partner", "agent_2": "learner"}
    )
    metrics = {} if goal is None else {"goal": {"agent_1": goal, "agent_2": 9.0 - goal}, "turns": 3.0}
    scenario = Scenario(f"s{number}", {}, f"env{number // 4}")
    result = Result(dict.fromkeys(players, 0.0), "left", metrics=metrics)
    return Episode(f"p/{number:02d}", "social", 1, scenario, 0, players, players, (), result)


def test_ratings_are_the_players_own_by_environment_and_position() -> None:
    found = rated([match(1, 4.0), match(2, 4.0), match(3)], "learner", ["goal", "turns", "secret"])
    assert found == {"goal": [(("env0", "agent_1"), 4.0), (("env0", "agent_2"), 5.0)]}
    assert rated([match(1, 4.0)], "other", ["goal"]) == {}


def test_the_task_prints_both_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, name = tmp_path / "run", "iter_002/eval/versus/partner"

    def write() -> None:
        with EpisodeStore(run / name, 0) as store:
            for number in range(8):
                store.append(match(number, float(number)))

    stage(run / name, {}, write)
    judge = run / name / "score/scores.jsonl"
    says = {"relationship": {"agent_1": 1.0, "agent_2": 3.0}}
    stage(judge.parent, {}, lambda: write_scores(judge, lambda episode: says, Matches(run / name)))
    stage(run / "iter_001/eval/sampled", {}, lambda: None)
    (run / "config.yaml").write_text("name: x\n")
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["task=dimensions", f"run={run}"])
    looking.dimensions(config, tmp_path, **{key: config.task[key] for key in ("run", "stages", "player", "names")})
    said = capsys.readouterr().out
    assert "iter_002/eval/versus/partner, learner" in said and "Sotopia's ±" in said
    lines = [line for line in said.splitlines() if "goal" in line or "relationship" in line]
    assert len(lines) == 2 and "4.50" not in lines[0] and " 8 " in lines[0]
    with pytest.raises(ConfigError, match="no judge has rated nobody on goal"):
        looking.dimensions(config, tmp_path, str(run), [name], "nobody", ["goal"])
