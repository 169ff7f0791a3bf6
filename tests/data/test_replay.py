from dataclasses import replace

import pytest
from parley.data.episode import Episode, Turn
from parley.data.replay import ReplayError, replay
from parley.games.base import GeneratorMatch, Message, Result, Scenario, View


class Sums:
    """Both seats say a number at once, then `a` guesses the sum; the seed adds a hidden number."""

    name, version, roles = "sums", 4, ("a", "b")

    def match(self, scenario, seed):
        return GeneratorMatch(self._turns(scenario.data["extra"] + seed))

    def _turns(self, total):
        views = {role: View(role, f"You are {role}.") for role in self.roles}
        replies = yield [views[role].ask("number") for role in self.roles]
        for role, reply in zip(self.roles, replies, strict=True):
            views[role].hear(reply)
            total += int(reply.text)
        views["a"].tell(f"b said {replies[1].text}.")
        guess = yield views["a"].ask()
        if guess.finish == "context":
            return Result({"a": 0.0, "b": 0.0}, "context", blame=("a",))
        return Result(
            {"a": float(guess.text == str(total)), "b": 0.0},
            "end",
            metrics={"total": (total,)},
            marks={guess.id: {"pair": (1, 2)}},
        )


RECORD = Episode(
    "p/s/0", "sums", 4, Scenario("s", {"extra": 1}), 10, {"a": "x", "b": "y"}, {"a": "", "b": ""},
    (Turn("a.1", "a", "number", "2"), Turn("b.1", "b", "number", "3"), Turn("a.2", "a", "act", "16")),
    Result({"a": 1.0, "b": 0.0}, "end", metrics={"total": [16]}, marks={"a.2": {"pair": [1, 2]}}),  # type: ignore[dict-item]
)  # fmt: skip


def test_a_record_replays_and_gives_each_seats_chat():
    again = replay(Sums(), RECORD)
    assert again.result.returns == {"a": 1.0, "b": 0.0}
    assert again.views == {
        "a": (
            Message("system", "You are a."),
            Message("assistant", "2", "a.1"),
            Message("user", "b said 3."),
            Message("assistant", "16", "a.2"),
        ),
        "b": (Message("system", "You are b."), Message("assistant", "3", "b.1")),
    }
    assert [request.id for request in again.requests] == [turn.request for turn in RECORD.turns]


def test_a_probe_is_in_no_view():
    class Asks(Sums):
        def _turns(self, total):
            result = yield from super()._turns(total)
            yield View("a").probe("sure ?")
            return result

    asked = replace(RECORD, turns=(*RECORD.turns, Turn("a.1", "a", "probe", "quite")))
    again = replay(Asks(), asked)
    assert again.views == replay(Sums(), RECORD).views and again.requests[-1].kind == "probe"


def test_a_record_of_another_version_replays_where_nothing_has_changed():
    for version in (3, "3.1"):
        assert replay(Sums(), replace(RECORD, game_version=version)) == replay(Sums(), RECORD)


def test_a_reply_that_was_never_made_is_not_in_the_chat():
    turns = (*RECORD.turns[:2], Turn("a.2", "a", "act", "", "context"))
    again = replay(Sums(), replace(RECORD, turns=turns, result=Result({"a": 0.0, "b": 0.0}, "context", blame=("a",))))
    assert again.views["a"][-1] == Message("user", "b said 3.")


a1, b1, a2 = RECORD.turns


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"game": "products"}, "played by products version 4; this game is sums"),
        ({"game_version": 3, "seed": 11}, r"returns .*played by sums version 3; this game is version 4"),
        ({"turns": (b1, a1, a2)}, "turn 0: the game asks"),
        ({"turns": (a1, b1)}, r"turn 2: .*the record has \[\]"),
        ({"turns": (a1, b1, a2, a2)}, "is over after 3 turns; the record has 4"),
        ({"turns": (a1, b1, replace(a2, seat="b"))}, "'b'"),
        ({"turns": (a1, b1, replace(a2, kind="retry"))}, "'retry'"),
        ({"turns": (a1, b1, replace(a2, request="a.3"))}, "'a.3'"),
        ({"turns": (a1, b1, replace(a2, text="17"))}, r"returns \{'a': 0.0.*record says \{'a': 1.0"),
        ({"turns": (a1, replace(b1, text="4"), a2)}, "returns"),
        ({"seed": 11}, "returns"),
        ({"scenario": Scenario("s", {"extra": 2})}, "returns"),
        ({"result": replace(RECORD.result, outcome="tie")}, "outcome 'end'; the record says 'tie'"),
        ({"result": replace(RECORD.result, marks={})}, "marks"),
    ],
)
def test_any_difference_is_named(change, says):
    with pytest.raises(ReplayError, match=says):
        replay(Sums(), replace(RECORD, **change))
