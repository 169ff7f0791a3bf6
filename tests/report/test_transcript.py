"""One match on a terminal: everything that was said and noted, and no escape sequence of a model's."""

from __future__ import annotations

import io
from dataclasses import replace

from market import NASTY, episode, views
from parley.data.episode import Turn
from parley.games.base import Message
from parley.report.transcript import LONG, markup, notes, spoken, steps, text, timeline
from parley.system.printing import printable
from rich.console import Console


def shown(found, sides) -> str:
    out = io.StringIO()
    Console(file=out, width=160, force_terminal=True, color_system=None).print(
        text(found, sides, {"joint": "points of both"})
    )
    return out.getvalue()


def test_both_views_the_outcome_and_the_scores_are_shown():
    found = episode("m1", "s1", 4.0, "one [bold] price")
    seen = shown(found, views(found))
    for words in (
        "match m1: market, scenario s1, seed 5",
        "buyer",
        "seller",
        "you buy <cheap>",
        "say it again",
        "payoff 4",
        "payoff 2",
    ):
        assert words in seen, words
    assert seen.count("one [bold] price") == 2  # said by the buyer, read by the seller
    assert (
        "assistant [refused, reason no tag]" in seen
        and "assistant [retry]" in seen
        and "assistant [ended by length]" in seen
    )
    assert "outcome: deal" in seen and "points of both" in seen and "buyer 4 seller 2" in seen


def test_a_model_cannot_write_to_the_terminal():
    found = episode("m1", "s1", 0.0, NASTY + "\x07\x9b\u202e\ud800 end")
    seen = shown(found, views(found))
    assert "\x1b" not in seen and "\x9b" not in seen and "\x07" not in seen and "\u202e" not in seen
    seen.encode("utf-8")
    assert "<script>alert('model')</script>" in seen


def test_without_a_replay_each_seat_shows_what_it_said():
    found = episode("m1", "s1", 1.0)
    assert {seat: [message.content for message in view] for seat, view in spoken(found).items()} == {
        "buyer": ["garbage", "hello"],
        "seller": ["fine"],
    }
    assert notes(found) == {"buyer.1": "refused, reason no tag", "buyer.2": "retry", "seller.1": "ended by length"}


def test_printable_keeps_what_is_text():
    assert printable("tab\t line\n naïve 日本 🙂 é\r\n") == "tab\t line\n naïve 日本 🙂 é\n"
    assert printable("a\x00b\rc\x7fd") == "a\ufffdb\ufffdc\ufffdd"


def test_thought_action_and_observation_are_told_apart():
    reply = Message("assistant", "Thought: who?\nor what\nAction: search[tea]\nObservation: mine")
    assert steps(reply) == [
        ("thought", "Thought: who?\nor what\n"),
        ("action", "Action: search[tea]\nObservation: mine"),  # what an agent makes up is no observation
    ]
    assert steps(Message("user", "Observation: it is tea .\nWrite Action: next")) == [
        ("observation", "Observation: it is tea .\n"),
        ("", "Write Action: next"),
    ]
    assert steps(Message("user", "Action: none\nplain")) == [("", "Action: none\nplain")]
    for words in ("", "a\nb", "Thought: a\n\nAction: b\n", "Thought: a\r\nAction: b"):
        for role in ("system", "user", "assistant"):
            assert "".join(text for _, text in steps(Message(role, words))) == words


def test_a_rollout_is_shown_in_steps_on_the_page():
    found = episode("m1", "s1", 1.0)
    sides = {
        "buyer": (
            Message("user", "What is it?"),
            Message("assistant", "Thought: <b>\nAction: search[tea]", "buyer.1"),
            Message("user", "Observation: x"),
        )
    }
    page = markup(found, sides)
    assert '<span class="step thought">Thought: &lt;b&gt;\n</span>' in page and '<span class="step action">' in page
    assert '<span class="step observation">Observation: x</span>' in page
    assert '<pre dir="auto">What is it?</pre>' in page


def test_a_timeline_has_every_message_of_every_seat_once_and_replies_in_the_order_of_play():
    found = episode("m1", "s1", 1.0, "hello there")
    openings, said = timeline(found, views(found))
    assert {seat: [each.parts for each in told] for seat, told in openings.items()} == {
        "buyer": [[("", "you buy <cheap>")]],
        "seller": [[("", "you sell")]],
    }
    assert [(each.seat, each.role, each.parts[0][1], each.echo, each.refused) for each in said] == [
        ("buyer", "assistant", "garbage", False, True),
        ("buyer", "user", "say it again", False, False),
        ("buyer", "assistant", "hello there", False, False),
        ("seller", "user", "hello there", True, False),  # what the buyer has just said
        ("seller", "assistant", "fine", False, False),
    ]
    assert [each.lane for each in said] == [0, 0, 0, 1, 1]


def test_the_middle_of_a_long_match_is_left_out_and_counted(tmp_path):
    turns = tuple(Turn(f"buyer.{at}", "buyer", "act", f"word {at}.") for at in range(500))
    found = replace(episode("m1", "s1", 1.0), turns=turns)
    page = markup(found, spoken(found), tmp_path / "a run")
    assert page.count('<li class="said') == LONG and "380 messages are left out" in page
    assert "word 0." in page and "word 499." in page and "word 300." not in page
    assert "parley task=show &#39;run=" in page and "match=m1" in page
