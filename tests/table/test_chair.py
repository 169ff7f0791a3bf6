"""A chair by itself: answers, leaving, time that runs out, and what is remembered of a match that was cut off."""

from __future__ import annotations

from types import SimpleNamespace

from parley.data.episode import Turn
from parley.games.base import Message
from parley.play.player import Prompt, Recalls, Remembers
from parley.table.chair import Chair


def asked(match: str, number: int = 1) -> Prompt:
    messages = (Message("system", "rules"), Message("user", f"hello {number}\x1b[2J"))
    return Prompt(f"{match}/left.{number}", f"{match}/left", messages, 0, observation={"word": "own"})


def test_a_chair_answers_what_is_open_once_and_shows_its_own_view():
    rung = []
    chair = Chair("person:a", 60.0, lambda: rung.append(1))
    assert isinstance(chair, Remembers) and isinstance(chair, Recalls) and not chair.busy
    assert chair.view() == {"phase": "wait", "messages": []}
    chair.submit([asked("m/0")])
    seen = chair.view()
    assert seen["phase"] == "ask" and seen["question"] == "m/0/left.1" and seen["seen"] == {"word": "own"}
    assert seen["messages"][1] == {"who": "told", "text": "hello 1\N{REPLACEMENT CHARACTER}[2J"}
    assert (
        not chair.answer("m/0/left.2", "x") and chair.answer("m/0/left.1", "hi") and not chair.answer("m/0/left.1", "x")
    )
    assert chair.view()["messages"][-1] == {"who": "you", "text": "hi"} and chair.view()["phase"] == "wait"
    (done,) = chair.poll()
    assert (done.text, done.finish, done.policy) == ("hi", "stop", "person:a") and done.seconds is not None
    assert chair.poll() == [] and len(rung) == 2


def test_a_page_is_told_the_seconds_that_are_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("parley.table.chair.time", SimpleNamespace(monotonic=lambda: now[0]))
    chair = Chair("person:a", 60.0, lambda: None)
    chair.submit([asked("m/0")])
    now[0] = 125.0
    assert chair.view()["left_s"] == 35


def test_who_leaves_gives_up_that_match_alone():
    chair = Chair("person:a", 60.0, lambda: None)
    chair.leave("m/0", "left")  # while others are at it
    chair.submit([asked("m/1")])
    assert chair.poll() == [] and chair.view()["phase"] == "ask"
    chair.cancel(["m/1/left.1"])
    chair.submit([asked("m/0", 2)])
    (lost,) = chair.poll()
    assert (lost.id, lost.finish, lost.text) == ("m/0/left.2", "error", "left")
    chair.submit([asked("m/2")])
    chair.leave("m/2", "left")
    assert [done.finish for done in chair.poll()] == ["error"]


def test_time_runs_out_and_a_recorded_turn_is_shown_again():
    chair = Chair("person:a", -1.0, lambda: None)
    chair.submit([asked("m/0")])
    assert "did not answer" in chair.poll()[0].text and not chair.answer("m/0/left.1", "late")
    assert chair.recall(asked("m/0"), Turn("left.1", "left", "act", "said before")) == "person:a"
    assert chair.view()["messages"][-1] == {"who": "you", "text": "said before"}
    chair.forget(["m/0/left"])
    assert chair.view()["messages"] == []
