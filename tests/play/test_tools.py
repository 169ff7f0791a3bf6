"""Tools that are slow, fail, hang or cost too much, asked by whole matches through the arena."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from parley.data.replay import replay
from parley.data.store import Matches
from parley.games.base import Message, Request, Tool, Unreachable
from parley.play.arena import Arena, TooManyFailures
from parley.play.pairing import Seatings, self_play
from parley.play.player import Prompt, Sampling
from parley.play.seats import Seats
from parley.play.tools import ToolPlayer, service
from parley.system.files import read_jsonl
from parley.system.spending import Ledger, SpendingLimit

from parlour import OWNERS, Library


def served(answer: Callable[[Request], str], **options: Any) -> Library:
    game = Library()
    game.services = {"shelf": Tool(lambda: answer, **{"parallel": 4, "timeout_s": 60.0, "retries": 3, **options})}
    return game


def owner(request: Request) -> str:
    return f"{OWNERS[request.messages[0].content]} does"


def planned(game: Library, k: int = 2) -> Seatings:
    return self_play(game, game.scenarios("test"), "player", 0, "play", k)


def play(game: Library, folder: Path, k: int = 2) -> list[Any]:
    seats = Seats(game, lambda: pytest.fail("no model plays"), 16, ledgers=folder / "spending")
    seats.play(
        folder / "play", planned(game, k), Sampling(), {}, lambda count, person: nullcontext(lambda report: None)
    )
    return list(Matches(folder / "play"))


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"m/{n}/shelf.0", f"m/{n}/shelf", (Message("user", "tea"),), n) for n in range(count)]


def test_a_slow_tool_that_fails_now_and_then_is_asked_again_until_all_is_played(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    busy, most, guard = 0, 0, threading.Lock()

    def shelf(request: Request) -> str:
        nonlocal busy, most
        with guard:
            asked[request.messages[0].content] += 1
            busy, failing = busy + 1, asked[request.messages[0].content] % 2
            most = max(most, busy)
        time.sleep(0.01)
        with guard:
            busy -= 1
        if failing:
            raise Unreachable("503")
        return owner(request)

    found = play(served(shelf), tmp_path, k=2)
    assert len(found) == 16 and all(each.result.returns == {"reader": 1.0} for each in found)
    assert 1 < most <= 4  # as many at a time as the tool wants, and no more
    turns = [turn for each in found for turn in each.turns if turn.seat == "shelf"]
    assert all(turn.seconds is not None and turn.seconds >= 0.01 and turn.call is None for turn in turns)
    assert {each.players["shelf"] for each in found} == {"shelf"}
    lines = list(read_jsonl(tmp_path / "spending/shelf.jsonl"))
    ends = Counter(line["finish"] for line in lines if "settle" in line)
    assert ends == {"Unreachable": 16, "stop": 16} and sum("book" in line for line in lines) == 32
    assert not (tmp_path / "play/failures.jsonl").exists()


def test_a_match_replays_without_the_tool(tmp_path: Path) -> None:
    (episode, *_) = play(served(owner), tmp_path)

    def index() -> Any:
        raise AssertionError("a replay needs no index")

    game = Library()
    game.services = {"shelf": Tool(index)}
    replayed = replay(game, episode)
    assert replayed.result == episode.result and replayed.views["shelf"][-1].content == f"{OWNERS['cocoa']} does"


def test_a_tool_that_stays_unreachable_leaves_its_matches_owed(tmp_path: Path) -> None:
    def shelf(request: Request) -> str:
        if request.messages[0].content == "salt":
            raise Unreachable("no route")
        return owner(request)

    game = served(shelf, retries=1)
    with pytest.raises(TooManyFailures, match="shelf: 2 attempts, the last: no route"):
        play(game, tmp_path, k=1)
    assert {each.scenario.id for each in Matches(tmp_path / "play")} == set(OWNERS) - {"salt"}
    assert len(play(served(owner), tmp_path, k=1)) == 8  # the tool is mended: what is owed is played


def test_an_answer_that_comes_too_late_is_asked_for_again_and_dropped() -> None:
    gate, asked = threading.Event(), Counter[str]()

    def shelf(request: Request) -> str:
        asked[request.seat] += 1
        if asked[request.seat] == 1:
            gate.wait(60)
            return "late"
        return "in time"

    player = ToolPlayer(Tool(lambda: shelf, timeout_s=0.05), "shelf", Ledger())
    player.submit(prompts(1))
    found = []
    while not found:
        found = player.poll(0.02)
    gate.set()
    assert [(each.text, each.finish) for each in found] == [("in time", "stop")]
    time.sleep(0.05)
    assert player.poll(0.05) == [] and player.ledger.requests >= 2
    player.close()


def test_a_tool_that_hangs_loses_the_match_and_not_the_run() -> None:
    gate = threading.Event()
    player = ToolPlayer(Tool(lambda: lambda request: str(gate.wait(60)), timeout_s=0.01, retries=1), "shelf", Ledger())
    player.submit(prompts(1))
    found = []
    while not found:
        found = player.poll(0.02)
    gate.set()
    assert [(each.text, each.finish) for each in found] == [("2 attempts, the last: no answer within 0.01 s", "error")]


def test_a_fault_of_the_tool_stops_the_run() -> None:
    def shelf(request: Request) -> str:
        raise KeyError("title")

    game = served(shelf)
    players = {"player": service(game.scripts()["player"], "player"), "shelf": service(game.services["shelf"], "shelf")}
    with pytest.raises(KeyError, match="title"):
        Arena(game, players).play(planned(game), lambda episode: None)


def test_the_ceiling_holds_over_processes_and_retries(tmp_path: Path) -> None:
    game = served(owner, max_requests=5)
    with pytest.raises(SpendingLimit, match="ceiling of 5 requests"):
        play(game, tmp_path)
    with pytest.raises(SpendingLimit):
        play(served(owner, max_requests=5), tmp_path)
    books = [json.loads(line) for line in (tmp_path / "spending/shelf.jsonl").read_text().splitlines()]
    assert sum("book" in line for line in books) == 5
    assert len(play(served(owner, max_requests=40), tmp_path)) == 16


def test_what_is_cancelled_is_settled_and_never_answered() -> None:
    gate = threading.Event()
    player = ToolPlayer(Tool(lambda: lambda request: str(gate.wait(60)), parallel=2), "shelf", Ledger())
    player.submit(prompts(5))
    assert player.poll() == [] and player.ledger.requests == 2
    player.cancel([prompt.id for prompt in prompts(4)])
    gate.set()
    found = []
    while not found:
        found = player.poll(0.02)
    assert [each.id for each in found] == ["m/4/shelf.0"] and player.poll(0.05) == []
