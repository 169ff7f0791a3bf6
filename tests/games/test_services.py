"""Services, seats by scenario, probes and one list of scenarios, as the kit sees them; and a suite of games."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from parley.games import conformance
from parley.games.base import Message, Reply, Request, Result, Scenario, Tool, View, seats, services
from parley.games.deal import Deal
from parley.games.splits import SPLITS
from parley.games.suite import Suite

from parlour import Auction, Debate, Library

GAMES = {
    "tool": Library,
    "judge": Debate,
    "three": lambda: Auction([3]),
    "two to five": Auction,
    "suite": lambda: Suite({"debate": Debate(), "library": Library(held_out=True)}),
}


@pytest.mark.parametrize("name", GAMES)
def test_games_with_every_kind_of_seat_conform(name: str) -> None:
    conformance.check(GAMES[name](), matches=40)


def test_a_game_that_declares_neither_seats_all_its_roles_and_nothing_else() -> None:
    game = Deal(max_actions=3)
    assert services(game) == {} and seats(game, game.scenarios("test")[0]) == game.roles


class NamedTwice(Debate):
    def __init__(self) -> None:
        self.services = {"pro": self.judge}


class ServedByNobody(Debate):
    def __init__(self) -> None:
        super().__init__()
        self.services = {**self.services, "clock": "noon"}  # type: ignore[dict-item]


class SeatsAStranger(Auction):
    def seats(self, scenario: Scenario) -> tuple[str, ...]:
        return (*super().seats(scenario), "p9")


class PaysTheJudge(Debate):
    def turns(self, topic: str, like: str) -> Any:
        result = yield from super().turns(topic, like)
        return replace(result, returns={**result.returns, "judge": 0.0})


class PaysTheAbsent(Auction):
    def turns(self, seats: Sequence[str]) -> Any:
        result = yield from super().turns(seats)
        return replace(result, returns=dict.fromkeys(self.roles, 0.0))


class RemembersProbes(Debate):
    """Its second view shows the question aside."""

    def turns(self, topic: str, like: str) -> Any:
        view = View("pro", "speak")
        view.tell("your word")
        aside = view.probe("will you win ?")
        reply = yield aside
        view._messages = [*aside.messages, Message("assistant", reply.text, reply.id)]
        view.tell("and now ?")
        reply = yield view.ask()
        return Result({"pro": 0.0, "con": 0.0}, "context", blame=("pro",) * (reply.finish == "context"))


class SplitsOneList(Library):
    def scenarios(self, split: str) -> Sequence[Scenario]:
        return super().scenarios(split)[: 6 + len(split) % 3]


BROKEN = {
    NamedTwice: "seats", ServedByNobody: "seats", SeatsAStranger: "seats", PaysTheJudge: "returns",
    PaysTheAbsent: "returns", RemembersProbes: "views", SplitsOneList: "scenarios",
}  # fmt: skip


@pytest.mark.parametrize("game", BROKEN, ids=lambda game: game.__name__)
def test_a_broken_seat_is_caught_by_the_check_of_it(game: Any) -> None:
    with pytest.raises(conformance.ConformanceError, match=f"^{BROKEN[game]}: "):
        conformance.CHECKS[BROKEN[game]](game(), 40, 0)


def test_a_judge_may_be_told_what_the_players_may_not() -> None:
    class Declares(Debate):
        def secrets(self, scenario: Scenario) -> dict[str, list[str]]:
            return {"judge": [f"likes {scenario.data['like']}"]}

    class Tells(Declares):
        def turns(self, topic: str, like: str) -> Any:
            return super().turns(f"{topic}, who likes {like}", like)

    conformance.check(Declares(), matches=20)
    with pytest.raises(conformance.ConformanceError, match=r"^secrets: 'pro.1' of .* shows"):
        conformance.CHECKS["secrets"](Tells(), 20, 0)


def test_the_kit_calls_no_tool() -> None:
    def index() -> Any:
        raise AssertionError("nobody may build this here")

    game = Library()
    game.services = {"shelf": Tool(index)}
    conformance.check(game, matches=20)


def test_a_probe_stands_in_no_later_view() -> None:
    view = View("me", "be brief")
    view.tell("first")
    aside = view.probe("sure ?")
    asked = view.ask()
    assert [each.content for each in aside.messages] == ["be brief", "first\nsure ?"] and aside.kind == "probe"
    assert [each.content for each in asked.messages] == ["be brief", "first"] and asked.id != aside.id


def test_a_tool_is_built_once_and_when_it_is_asked() -> None:
    built: list[int] = []

    def index() -> Any:
        built.append(1)
        return lambda request: "found"

    tool = Tool(index)
    assert built == []
    request = Request("shelf.0", "shelf", (Message("user", "tea"),))
    assert tool.answer(request) == tool.answer(request) == "found" and built == [1]


# --- the suite -------------------------------------------------------------------------------------------------------


def suite() -> Suite:
    return Suite({"debate": Debate(), "library": Library(held_out=True)})


def test_a_suite_takes_its_members_in_turn() -> None:
    game = suite()
    names = [each.id.partition("/")[0] for each in game.scenarios("train")]
    assert names[:6] == ["debate", "library"] * 3 and len(names) == 24 + 3
    limited = Suite(game.members, limit=2).scenarios("train")
    assert [each.id for each in limited] == [
        "debate/one train-tea", "library/tea", "debate/one train-coffee", "library/wool"
    ]  # fmt: skip
    assert game.roles == ("pro", "con", "reader") and set(game.services) == {"judge", "shelf"}
    assert game.version == "debate 1, library 2026-11"


def test_a_match_of_a_suite_is_its_members_own() -> None:
    game, alone = suite(), Library(held_out=True)
    scenario = game.scenarios("train")[1]
    assert game.seats(scenario) == ("reader",)
    script, plain = game.scripts()["player"], alone.scripts()["player"]
    match, own = game.match(scenario, 3), alone.match(alone.scenarios("train")[0], 3)
    asked, expected = match.start(), own.start()
    while asked:
        assert [each.messages for each in asked] == [each.messages for each in expected]
        if asked[0].seat == "shelf":
            text = "ann does"
            assert [*asked] == [*expected]  # a service is asked as if there were no suite
        else:
            text = script(asked[0], Random(0), Random(0))
            assert text == plain(expected[0], Random(0), Random(0))
        reply = Reply(asked[0].id, text)
        asked, expected = match.step([reply]), own.step([reply])
    assert match.result() == replace(own.result(), metrics={"library.right": 1.0, "library.looks": 1.0})


def test_unseen_members_are_of_the_test_split_alone_and_told_apart() -> None:
    members = suite().members
    game = Suite(members, unseen=["library"])
    names = {split: {each.id.partition("/")[0] for each in game.scenarios(split)} for split in SPLITS}
    assert names == {"train": {"debate"}, "validation": {"debate"}, "test": {"debate", "library"}}
    assert [each.id for each in game.scenarios("test")] == [each.id for each in Suite(members).scenarios("test")]
    told = {name.rpartition(".")[0] for name in game.facts.metrics}
    assert told == {"debate", "unseen.library"}
    conformance.check(game, matches=8, seed=0)
    with pytest.raises(ValueError, match=r"unseen names \['shelf'\]: expected some, not all, of the members debate"):
        Suite(members, unseen=["shelf"])
    with pytest.raises(ValueError, match="some, not all"):
        Suite(members, unseen=["debate", "library"])


def test_members_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="some members hold scenarios out"):
        Suite({"debate": Debate(), "library": Library()})
    with pytest.raises(ValueError, match=r"services \['judge'\] of two"):
        Suite({"one": Debate(), "two": Debate()})
    with pytest.raises(ValueError, match=r"names \['a/b'\]"):
        Suite({"a/b": Debate()})


def test_only_scripts_that_every_member_has_play_a_suite() -> None:
    assert list(suite().scripts()) == ["player"]
