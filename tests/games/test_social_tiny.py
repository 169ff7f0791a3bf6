"""Bargains and friends in common: when a goal is reached, the contract, the scripts and the two judges."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from parley.games import conformance
from parley.games.base import Reply, Result, Scenario, Script
from parley.games.social import Action
from parley.games.social.tiny import FRIENDS, SocialTiny, bargained, met

RUBRIC = yaml.safe_load((Path(__file__).parents[2] / "conf/rubric/goal.yaml").read_text())
GAME = SocialTiny(RUBRIC, environments=400)


@pytest.mark.parametrize("name", conformance.CHECKS)
def test_contract(name: str) -> None:
    conformance.CHECKS[name](GAME, matches=24)


def log(*said: str) -> list[dict[int, Action]]:
    return [{turn % 2: Action("speak", text)} for turn, text in enumerate(said)]


@pytest.mark.parametrize(
    ("said", "buyer", "seller"),
    [
        (("offer 5", "deal"), 10, 10), (("offer 4", "deal"), 10, 10), (("offer 3", "deal"), 10, 0),
        (("offer 8", "deal"), 0, 10), (("offer 5", "offer 7", "deal"), 10, 10), (("offer 5", "offer 6"), 0, 0),
        (("deal", "deal"), 0, 0), (("offer 5", "no", "deal"), 0, 0), (("great offer 5", "lovely deal"), 10, 10),
        (("offer five", "deal"), 0, 0), (("offer ٣", "deal"), 0, 0), (("offer 99999", "deal"), 0, 0),
        (("offer 5", "offer 6", "deal", "offer 20", "deal"), 10, 10), (("offer",), 0, 0),
    ],
)  # fmt: skip
def test_a_bargain_is_what_the_other_agrees_to(said: tuple[str, ...], buyer: int, seller: int) -> None:
    assert bargained(4, 7, log(*said)) == (buyer, seller)


@pytest.mark.parametrize(
    ("said", "score"),
    [
        (("know ann", "know ann"), 10), (("know bob", "know ann", "know ann"), 10), (("know ann", "know bob"), 0),
        (("know ann bob", "know ann"), 0), (("know ann",), 0), (("is it ann", "yes ann lovely"), 10),
    ],
)  # fmt: skip
def test_a_friend_in_common_is_found_when_both_have_named_it_alone(said: tuple[str, ...], score: int) -> None:
    assert met("ann", log(*said)) == (score, score)


def played(scenario: Scenario, talker: Script, judge: Script, seed: int) -> Result:
    match, draw = GAME.match(scenario, 0), Random(seed)
    asked = match.start()
    while asked:
        said = [(judge if each.seat == "judge" else talker)(each, draw, draw) for each in asked]
        asked = match.step([Reply(each.id, text) for each, text in zip(asked, said, strict=True)])
    return match.result()


def means(talker: str, judge: Script) -> dict[str, float]:
    results = [played(each, GAME.scripts()[talker], judge, seed) for seed, each in enumerate(GAME.scenarios("train"))]
    assert {result.metrics["legal_rate"]["agent_1"] for result in results} == {1.0}  # type: ignore[index]
    return {
        name: sum(value for result in results for value in result.metrics[name].values()) / (2 * len(results))  # type: ignore[union-attr]
        for name in ("true_goal", "goal", "gap")
    }


def test_who_does_not_err_reaches_more_and_a_vain_judge_is_flattered() -> None:
    truthful = GAME.services["judge"]
    casual, able = means("casual", truthful), means("able", truthful)
    assert able["true_goal"] > casual["true_goal"] + 1 and casual["gap"] == able["gap"] == 0
    assert casual["goal"] == pytest.approx(casual["true_goal"])
    vain = means("casual", GAME.scripts()["vain"])
    assert vain["true_goal"] == casual["true_goal"] and vain["gap"] != 0


def test_an_environment_is_what_its_number_says_and_has_one_friend_in_common() -> None:
    again = SocialTiny(RUBRIC, environments=400)
    assert again.scenarios("test") == GAME.scenarios("test")
    for scenario in GAME.scenarios("train"):
        goals = [goal.split() for goal in scenario.data["goals"]]
        if "shared" in scenario.data:
            assert {*goals[0]} & {*goals[1]} & {*FRIENDS} == {scenario.data["shared"]}
        else:
            least, most = scenario.data["bounds"]
            assert 0 < least < most and goals == [["buy", "at", "most", str(most)], ["sell", "at", "least", str(least)]]
