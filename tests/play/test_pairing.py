import pytest
from parley.games.base import Scenario
from parley.play.pairing import Seating, both_seatings, fixed, self_play
from parley.system.seeds import derive
from tables import Bids

GAME, SCENARIOS = Bids(), [Scenario("s-0", {}), Scenario("s/1", {})]


def test_self_play_seats_one_player_everywhere():
    seatings = list(self_play(GAME, SCENARIOS, "me", 7, "iter_001/play", 2))
    assert [seating.match for seating in seatings] == [
        f"iter_001/play/{part}" for part in ("s-0/0", "s-0/1", "s/1/0", "s/1/1")
    ]
    assert seatings[1] == Seating(
        "iter_001/play/s-0/1", SCENARIOS[0], derive(7, "match", "iter_001/play/s-0/1"), {"ann": "me", "bob": "me"}
    )
    assert len({seating.seed for seating in seatings}) == 4


def test_both_seatings_seat_each_in_every_role():
    seatings = list(both_seatings(GAME, SCENARIOS, "new", "old", 7, "eval", 2))
    one, other = {"ann": "new", "bob": "old"}, {"ann": "old", "bob": "new"}
    assert [dict(seating.players) for seating in seatings] == [one, other] * 4
    assert len({seating.match for seating in seatings}) == 8
    assert seatings == list(both_seatings(GAME, SCENARIOS, "new", "old", 7, "eval", 2))
    assert {seating.seed for seating in seatings}.isdisjoint(
        seating.seed for seating in both_seatings(GAME, SCENARIOS, "new", "old", 8, "eval", 2)
    )


def test_a_scenario_drawn_again_goes_on_with_its_numbers():
    seatings = list(both_seatings(GAME, [SCENARIOS[0], SCENARIOS[1], SCENARIOS[0]], "new", "old", 7, "e"))
    assert [seating.match for seating in seatings] == [
        f"e/{part}" for part in ("s-0/0", "s-0/1", "s/1/0", "s/1/1", "s-0/2", "s-0/3")
    ]
    assert [seating.players["ann"] for seating in seatings] == ["new", "old"] * 3


def test_one_against_all_others_at_a_larger_table():
    class Three(Bids):
        roles = ("a", "b", "c")

    seatings = [seating.players for seating in both_seatings(Three(), SCENARIOS[:1], "new", "old", 1, "e")]
    assert [[role for role in players if players[role] == "new"] for players in seatings] == [["a"], ["b"], ["c"]]


def test_fixed_seats_need_every_role():
    (seating,) = fixed(GAME, SCENARIOS[:1], {"ann": "x", "bob": "human"}, 1, "play")
    assert seating.players == {"ann": "x", "bob": "human"}
    with pytest.raises(ValueError, match=r"roles \['ann', 'bob'\], got players for \['ann', 'carl'\]"):
        fixed(GAME, SCENARIOS, {"ann": "x", "carl": "y"}, 1, "play")
