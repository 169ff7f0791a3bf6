"""A learner against a teacher, a snapshot or a served model, in either role; pairs of one turn's continuations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import training
from parley.credit import Contrast
from parley.data.store import Matches
from parley.run.build import build, running
from parley.run.config import ConfigError
from parley.run.loop import Loop

from openai_server import KEY, Server, completion
from parlour import THINGS

WORDS = [
    "model.width=32", "model.layers=1", "model.mlp=64", "imitate.matches=60", "imitate.validation=0",
    "imitate.players=[player]", "learner.epochs=1", "learner.batch_utterances=4", "play.scenarios=6", "play.group=1",
    "play.sampling.temperature=1.0", "play.sampling.max_tokens=4", "metric=sampled.won", "eval.opponents=[]",
]  # fmt: skip
PAIRS = ["objective=dpo", "objective.credit.within=turn", "play.branches=3"]


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        found = compose("config", [*WORDS, *words])
    found.game = {"_target_": "parlour.Debate"}
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training.imitate(config("task=imitate", "seed=5"), out := tmp_path_factory.mktemp("teacher") / "run")
    return out


def taught(out: Path, *words: str) -> Any:
    """One iteration against the teacher: play with branches, pairs, a step."""
    with running(config("players=alternating", "players.opponent=teacher", *PAIRS, *words), out) as run:
        loop = Loop(run)
        loop.iteration(1, [loop.start()])
        learned: dict[str, Any] = run.outputs("iter_001/learn")["learner"]
    matches = Matches(out / "iter_001/play")
    roots = [each for each in matches if each.parent is None]
    seats = [next(seat for seat, name in each.players.items() if name == "learner") for each in roots]
    assert sorted(seats) == ["con"] * 6 + ["pro"] * 6  # either role, with the teacher in the other
    assert all({*each.players.values()} == {"learner", "teacher", "judge"} for each in matches)
    for each in (each for each in matches if each.parent is not None):
        assert each.players[each.turns[each.parent[1]].seat] == "learner"  # the branches are of its own turns
    credited = Contrast("turn")(matches, "learner")
    assert {sample.policy for sample in credited.samples} == {roots[0].policies[seats[0]]}
    assert learned["learn"]["utterances"] == sum(len(sample.utterances) for sample in credited.samples) > 0
    assert "rewards/margins" in learned["learn"]
    return matches


def test_against_a_snapshot_with_pairs_of_branches(tmp_path: Path, teacher: Path) -> None:
    matches = taught(tmp_path / "run", f"opponents.teacher.path={teacher}")
    versions = {
        name: {each.policies[seat] for each in matches for seat in each.players if each.players[seat] == name} - {""}
        for name in ("learner", "teacher")
    }  # no version where a seat says nothing new in a branch
    assert len(versions["teacher"]) == len(versions["learner"]) == 1 and not versions["teacher"] & versions["learner"]


def test_against_a_served_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("SERVER_KEY", KEY)
    server = Server(lambda body: completion(body, THINGS[body.get("seed", 0) % len(THINGS)]))
    words = ["opponents.teacher.model=a-teacher", "+backend@opponents.teacher.backend=openai"]
    words += [f"opponents.teacher.backend.url={server.url}", "opponents.teacher.backend.key_env=SERVER_KEY"]
    try:
        matches = taught(tmp_path / "run", *words)
    finally:
        server.close()
    said = [turn.text for each in matches for turn in each.own if each.players[turn.seat] == "teacher"]
    assert server.answered == len(said) and {*said} <= {*THINGS}


def test_pairs_of_branches_need_branches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective\.credit\.within: turns are compared .*say play\.branches=3"):
        build(config("objective=dpo", "objective.credit.within=turn"), tmp_path)
