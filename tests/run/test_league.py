"""A league: who is in it, whom its policies meet, when an exploiter begins anew; a whole run, killed and resumed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parley.data.store import Matches
from parley.games.deal import Deal
from parley.games.exact import Kuhn
from parley.games.prompts import Tales
from parley.play.matching import Nash, Pfsp, Uniform
from parley.run.cast import Cast
from parley.run.matchmaking import League, Plan

from commands import begin, fresh, output, parley

POLICIES = ["main", "exploiter"]


def league(**changed: Any) -> League:
    settled: dict[str, Any] = {
        "matching": Uniform(), "mirror": 0.5, "anchors": ["start"], "anchor_share": 0.1, "every": 1, "at_most": 3,
        "exploiters": {"exploiter": {"against": "main", "above": 0.7, "after": 3}}, "scenarios": 4, "resamples": 0,
    }  # fmt: skip
    return League(**settled | changed)


def even(*names: str) -> dict[str, dict[str, float]]:
    return {a: {b: 0.5 for b in names if a != b} for a in names}


def test_a_policy_meets_itself_the_anchors_and_the_copies() -> None:
    made = league()
    shares = made.shares("main", 2, ["main@1", "main@2"], even("start", "main@1", "main@2"))
    assert shares == pytest.approx({"main": 0.5, "start": 0.1, "main@1": 0.2, "main@2": 0.2})
    assert made.shares("main", 0, [], even("start")) == pytest.approx({"main": 0.9, "start": 0.1})
    assert made.shares("exploiter", 2, ["main@1"], {}) == {"main@2": 1.0}
    assert league(anchors=[]).shares("main", 0, [], {}) == {"main": 1.0}


def test_copies_come_and_the_least_wanted_leave() -> None:
    made = league(matching=Pfsp("hard", 1.0))
    assert made.frozen([], 0, POLICIES, {}) == []
    assert made.frozen([], 1, POLICIES, {}) == ["main@1", "exploiter@1"]
    payoffs = {"main@2": {"main@1": 0.2, "exploiter@1": 0.9}}
    assert made.frozen(["main@1", "exploiter@1"], 2, POLICIES, payoffs) == ["main@1", "main@2", "exploiter@2"]
    assert league(every=2).frozen(["main@2"], 3, ["main"], {}) == ["main@2"]
    assert league(at_most=1).frozen(["main@1"], 2, POLICIES, {"main@2": {}}) == ["main@2", "exploiter@2"]


def test_an_exploiter_begins_anew_when_it_wins_or_has_had_its_time() -> None:
    made = league()

    def table(number: int, won: float) -> dict[str, dict[str, float]]:
        return {f"exploiter@{number}": {f"main@{number}": won}}

    assert made.ages({}, 0, table(0, 0.9)) == {"exploiter": 0}  # it has not learned yet
    assert made.ages({"exploiter": 0}, 1, table(1, 0.6)) == {"exploiter": 1}
    assert made.ages({"exploiter": 1}, 2, table(2, 0.71)) == {"exploiter": 0}
    assert made.ages({"exploiter": 2}, 3, table(3, 0.1)) == {"exploiter": 0}


def test_an_opponent_sits_in_every_role_and_a_mirror_once() -> None:
    cast = Cast(Kuhn(), {}, ("main", "exploiter"), "start", league=True)
    plan = Plan({"main": {"main": 0.5, "start": 0.5}, "exploiter": {"main@0": 1.0}}, ())
    assert plan.names == ["main", "start", "exploiter", "main@0"]
    met = plan.tables(cast, "main", 4)
    assert Counter(len(tables) for tables in met) == {1: 2, 2: 2}
    mirror, other = (next(tables for tables in met if len(tables) == many) for many in (1, 2))
    assert mirror == [("", {"first": "main", "second": "main"})]
    assert [players for _, players in other] == [
        {"first": "main", "second": "start"},
        {"first": "start", "second": "main"},
    ]
    assert cast.roles("exploiter") == ("first", "second") and len(cast.tables) == 2


def test_what_does_not_go_together_is_told() -> None:
    made = league(anchors=["start", "nosh"], exploiters={"spy": {"against": "mane"}}, matching=Nash())
    told = " | ".join(made.faults(POLICIES, ["start", "nash"], Deal()))
    assert "there is no player nosh, only start, nash" in told
    assert "league.exploiters.spy: there is no policy spy" in told and "spy.against: there is no policy mane" in told
    assert "it is for zero-sum games, and deal is none here" in told
    assert "a game for one" in " ".join(league(exploiters={}).faults(POLICIES, ["start"], Tales()))
    assert list(league().faults(POLICIES, ["start"], Kuhn())) == []
    free = Kuhn()
    free.facts = replace(free.facts, min_return=0, max_return=0)
    assert "pays every seat the same" in " ".join(league().faults(POLICIES, ["start"], free))
    with pytest.raises(ValueError, match="more than 1 together"):
        league(mirror=0.95)


WORDS = [
    "game=kuhn", "iterations=2", "play.scenarios=6", "play.group=6", "play.sampling.temperature=1.0",
    "eval.scenarios=6", "eval.greedy=1", "eval.validation=6", "eval.opponents=[]", "imitate.matches=400",
    "imitate.validation=1", "imitate.players=[loose]", "imitate.learner.batch_utterances=16",
    "objective.credit.keep_draws=null", "metric=versus.start.score", "model.width=32", "model.heads=2",
    "model.layers=1", "model.mlp=64", "model.context=64", "eval.transcripts=1", "policies={main: {}, exploiter: {}}",
    "league=pfsp", "league.exploiters={exploiter: {against: main, above: 0.7, after: 1}}",
    "league.anchors=[start,nash]", "league.resamples=20", "keep=1",
]  # fmt: skip


def outputs(run: Path) -> dict[str, Any]:
    return {
        path.parent.relative_to(run).as_posix(): json.loads(path.read_text())["outputs"]
        for path in sorted(run.glob("**/league/stage.json"))
    }


@pytest.mark.slow
def test_a_league_run_killed_and_resumed_is_the_run_left_alone(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alone = fresh(*WORDS, f"hydra.run.dir={whole}", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    begin(*WORDS, f"hydra.run.dir={cut}", folder=tmp_path).kill_when((cut / "league/start~main@1/stage.json").exists)
    assert not (cut / "summary.json").exists()
    output(*WORDS, f"resume={cut}", folder=tmp_path)
    found = outputs(whole)
    assert found == outputs(cut) and set(found) == {f"iter_{number:03d}/league" for number in range(3)}
    last = found["iter_002/league"]
    assert last["copies"] == ["main@1", "exploiter@1", "main@2", "exploiter@2"] and last["ages"] == {"exploiter": 0}
    pairs = sorted(path.parent.name for path in whole.glob("league/*/stage.json"))
    assert len(pairs) == len({frozenset(name.split("~")) for name in pairs}) == 6 + 5 + 9  # each pair once
    met = Counter()
    for episode in Matches(whole / "iter_002/play"):
        met[tuple(sorted(set(episode.players.values())))] += 1
    assert met[("exploiter", "main@1")] == 6 * 2 * 6 and met[("main",)] == 3 * 6  # both seats, and the mirror
    groups = {
        (episode.scenario.id, frozenset(episode.players.values())) for episode in Matches(whole / "iter_002/play")
    }
    assert all(count >= 6 for count in met.values()) and len(groups) <= 12
    assert json.loads((whole / "iter_002/league/ratings.json").read_text()) == last["ratings"]
    learned = [json.loads((whole / f"iter_00{n}/learn/stage.json").read_text())["outputs"] for n in (1, 2)]
    assert learned[0]["exploiter"]["snapshot"] != learned[1]["exploiter"]["snapshot"]
    versions = {
        each.policies.get("first") for each in Matches(whole / "iter_002/play") if each.players["first"] == "exploiter"
    }
    start = {
        each.policies["first"] for each in Matches(whole / "iter_001/play") if each.players["first"] == "exploiter"
    }
    assert versions == start  # the exploiter began anew: its start plays again


def test_a_league_without_its_players_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    refused = parley(*WORDS, "league.anchors=[nosh]", "players.first=main", folder=tmp_path)
    told = refused.stdout + refused.stderr
    assert refused.returncode == 2 and "Traceback" not in told
    assert "league.anchors: there is no player nosh" in told and "players: the league decides who meets" in told


def test_a_cast_without_a_league_is_as_before() -> None:
    cast = Cast(Kuhn(), {"first": "main"}, ("main",), "start")
    assert cast.tables == [("", cast.table)] and replace(cast, league=True).tables == [("", cast.all("main"))]
