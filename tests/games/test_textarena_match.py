"""A match of TextArena, on environments of our own that do what a foreign one may do: no TextArena is needed."""

import io
import random
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from parley.games.base import Facts, GeneratorMatch, Reply, Request, Result, Scenario
from parley.games.isolation import Enclosure, Overrun
from parley.games.textarena.environments import Environment, known, table
from parley.games.textarena.match import METRICS, Rules, Table
from parley.games.textarena.port import Told
from parley.games.textarena.scripts import listed
from parley.games.textarena.scripts import random as random_player
from parley.system.files import InputError

SCENARIO = Scenario("Race-v0:1", {"env": "Race-v0", "seed": 1})


class Race:
    """Seats say [go] in turn; who says it third has won. Another word is asked for again once, then puts the seat out.
    Subclasses misbehave."""

    allowed = 1

    def reset(self, players: int, seed: int) -> None:
        self.places, self.turn, self.wrong, self.over = [0] * players, 0, 0, False
        self.lost: list[int] = []
        self.told: list[list[Told]] = [[Told("message", -1, "Available moves: [go], [bet X]")] for _ in self.places]

    def observe(self) -> tuple[object, Sequence[Told]]:
        told, self.told[self.turn] = self.told[self.turn], []
        return self.turn, told

    def step(self, text: str) -> bool:
        for seat in self.told:
            seat.append(Told("action", self.turn, text))
            seat.append(Told("board", -1, f"board {sum(self.places)}"))
        if text != "[go]":
            self.wrong += 1
            if self.wrong > self.allowed:
                self.lost.append(self.turn)
                self.over = len(self.places) == 2
                self._next()
            return self.over
        self.places[self.turn] += 1
        self.over = self.places[self.turn] == 3
        if not self.over:
            self._next()
        return self.over

    def _next(self) -> None:
        self.wrong = 0
        if len(self.lost) < len(self.places):
            self.turn = next(
                seat
                for seat in [(self.turn + step) % len(self.places) for step in range(1, len(self.places) + 1)]
                if seat not in self.lost
            )

    def errors(self) -> int:
        return self.wrong

    def gone(self):
        return self.lost

    def invalid(self):
        return self.lost

    def rewards(self):
        if len(self.places) == 2 and self.lost:
            return {seat: -1 if seat in self.lost else 1 for seat in (0, 1)}
        return {seat: 1 if place == 3 else -1 for seat, place in enumerate(self.places)}


def rules(port=Race, seats=2, **changes) -> Rules:
    facts = Facts(
        -1.0, 1.0, changes.pop("max_requests", 20), changes.pop("max_retries", 5), seats == 2, metrics=METRICS
    )
    given = {"boards": "all", "brackets": False, "success": 1.0, "cpu_s": 0.3, **changes}
    return Rules(port, tuple(f"player_{number}" for number in range(seats)), facts, **given)


def play(rules: Rules, *texts: str | Reply, deal: int = 1, seed: int = 2) -> tuple[Result, list[Request]]:
    """Answers in turn with `texts`, the last of them for ever."""
    match, asked = GeneratorMatch(Table(rules, SCENARIO, deal, seed).play()), []
    requests = match.start()
    while requests:
        text = texts[min(len(asked), len(texts) - 1)]
        asked += requests
        reply = Reply(requests[0].id, text) if isinstance(text, str) else Reply(requests[0].id, text.text, text.finish)
        requests = match.step([reply])
    return match.result(), asked


def test_a_match_told_once_message_by_message():
    result, asked = play(rules(), "[go]")
    assert result.returns == {"player_0": 1.0, "player_1": -1.0} and result.outcome == "decided"
    assert result.outcome_by_seat == {"player_0": "win", "player_1": "loss"} and result.blame == ()
    assert [(each.id, each.kind) for each in asked][:3] == [
        ("player_0.1", "act"), ("player_1.1", "act"), ("player_0.2", "act"),
    ]  # fmt: skip
    third = [(message.role, message.content) for message in asked[2].messages]
    assert third == [
        ("user", "Available moves: [go], [bet X]"),
        ("assistant", "[go]"),
        ("user", "board 0\n[Player 1] [go]\nboard 1"),
    ]
    assert asked[0].observation == {"lines": ["Available moves: [go], [bet X]"], "legal": ["[go]"]}
    assert set(result.metrics) == set(METRICS)


def test_of_several_boards_only_the_newest():
    _, asked = play(rules(boards="last"), "[go]")
    assert asked[2].messages[-1].content == "[Player 1] [go]\nboard 1"


def test_an_invalid_move_is_asked_for_again_then_lost():
    result, asked = play(rules(), "no")
    assert [each.kind for each in asked] == ["act", "retry"] and {each.seat for each in asked} == {"player_0"}
    assert asked[1].observation is not None and asked[1].observation["legal"] == ["[go]"]
    assert result.marks == {"player_0.1": {"retry": "invalid"}, "player_0.2": {"retry": "invalid, and out"}}
    assert (result.outcome, result.blame, result.returns["player_0"]) == ("invalid", ("player_0",), -1.0)
    assert result.outcome_by_seat == {"player_0": "invalid", "player_1": "win"}
    assert result.metrics["invalid_rate"] == {"player_0": 1.0, "player_1": 0.0} and result.metrics["played_rate"] == 0


def test_an_invalid_move_is_worth_what_the_config_says():
    result, _ = play(rules(invalid=(-2.0, 0.25)), "no")
    assert result.returns == {"player_0": -2.0, "player_1": 0.25}


def test_others_go_on_without_a_seat_that_is_out_and_are_paid_by_the_game():
    result, asked = play(rules(seats=3, invalid=(-2.0, 0.25)), "no", "no", "[go]")
    assert result.outcome == "decided" and result.blame == ("player_0",)
    assert result.returns == {"player_0": -2.0, "player_1": 1.0, "player_2": -1.0}
    assert {each.seat for each in asked[2:]} == {"player_1", "player_2"}


def test_a_match_ends_when_everybody_is_out():
    result, asked = play(rules(seats=3), "no")
    assert len(asked) == 6 and result.blame == ("player_0", "player_1", "player_2")


def test_an_environment_that_never_gives_up_is_given_up():
    class Patient(Race):
        allowed = 10**6

    result, asked = play(rules(Patient, max_retries=3), "no")
    assert len(asked) == 4 and (result.outcome, result.blame) == ("invalid", ("player_0",))
    assert result.returns == {"player_0": -1.0, "player_1": 1.0}


def test_retries_are_counted_anew_after_a_valid_move():
    class Patient(Race):
        allowed = 10**6

    result, asked = play(rules(Patient, max_retries=1), *["no", "[go]"] * 5)
    assert result.outcome == "decided" and [each.kind for each in asked] == ["act", "retry"] * 5


def test_a_match_is_cut_off():
    class Endless(Race):
        def step(self, text):
            super().step(text)
            self.places = [0] * len(self.places)
            return False

    result, asked = play(rules(Endless, max_requests=7), "[go]")
    assert len(asked) == 7 and result.outcome == "cut" and set(result.returns.values()) == {0.0}
    assert result.metrics["cut_rate"] == 1.0


def test_a_view_that_outgrew_the_model():
    result, _ = play(rules(), "[go]", Reply("", "", "context"))
    assert (result.outcome, result.blame) == ("context", ("player_1",))


class Raises(Race):
    def step(self, text):
        raise ValueError("no such thing\nat all")


class RaisesAtOnce(Race):
    def reset(self, players, seed):
        raise OSError("no dictionary")


class Hangs(Race):
    def step(self, text):
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue


class Texts(Race):
    def rewards(self):
        return {0: "Bad action.", 1: 1}


class NotANumber(Race):
    def rewards(self):
        return {0: float("nan"), 1: 1}


class WrongSeat(Race):
    def observe(self):
        return 7, []


@pytest.mark.parametrize(
    ("port", "told", "returns"),
    [
        (Raises, "the environment raised ValueError: no such thing", (-1.0, 1.0)),
        (RaisesAtOnce, "the environment raised OSError: no dictionary", (0.0, 0.0)),
        (Hangs, "the environment took more than 0.3 CPU-seconds for one call", (0.0, 0.0)),
        (Texts, "the environment gave player_0 the reward 'Bad action.', which is no number", (0.0, 0.0)),
        (NotANumber, "the environment gave player_0 the reward nan, which is no number", (0.0, 0.0)),
        (WrongSeat, "the environment gave the turn to 7, which is no seat of the match", (0.0, 0.0)),
    ],
)
def test_an_environment_that_fails_fails_its_match_in_one_line(port, told, returns):
    with pytest.warns(UserWarning) as heard:
        result, _ = play(rules(port), "[go]")
    assert [str(each.message) for each in heard] == [f"Race-v0:1: {told}"]
    assert (result.outcome, result.metrics["crash_rate"]) == ("crash", 1.0)
    assert tuple(result.returns.values()) == returns
    assert result.blame == (("player_0",) if port is Raises else ())


def test_replies_get_brackets_where_they_have_none():
    result, _ = play(rules(brackets=True), "go", "[go]")
    assert result.outcome == "decided" and result.marks == {}


def test_the_deal_is_the_scenarios_and_later_chance_the_matchs():
    class Dice(Race):
        def reset(self, players, seed):
            super().reset(players, seed)
            self.deal = random.random()

        def step(self, text):
            seen.append((self.deal, random.random()))
            return super().step(text)

    seen: list[tuple[float, float]] = []
    before = random.getstate()
    for deal, seed in ((1, 2), (1, 3), (4, 2), (1, 2)):
        play(rules(Dice), "[go]", deal=deal, seed=seed)
    rows = [seen[place : place + 5] for place in range(0, 20, 5)]
    assert rows[0] == rows[3] and rows[0][0][0] == rows[1][0][0] != rows[2][0][0]
    assert [each[1] for each in rows[0]] == [each[1] for each in rows[2]] != [each[1] for each in rows[1]]
    assert random.getstate() == before


def test_an_enclosure_keeps_chance_and_output_to_itself(capsys):
    numpy = pytest.importorskip("numpy")
    one, other = Enclosure(3, 5.0), Enclosure(3, 5.0)

    def draw():
        print("noise")
        return random.random(), float(numpy.random.random())

    mixed = [(one.run(draw), other.run(draw)) for _ in range(3)]
    assert all(first == second for first, second in mixed) and len({first for first, _ in mixed}) == 3
    assert capsys.readouterr().out == ""


def test_an_enclosure_leaves_the_generators_of_others_as_they_were():
    numpy = pytest.importorskip("numpy")
    random.seed(4)
    numpy.random.seed(4)
    plain, plain_numpy = random.Random(4), numpy.random.RandomState(4)
    enclosure = Enclosure(3, 5.0)
    for _ in range(5):  # normal numbers come in pairs, whose second one is kept apart
        assert (random.gauss(0, 1), numpy.random.normal()) == (plain.gauss(0, 1), plain_numpy.normal())
        enclosure.run(lambda: (random.gauss(0, 1), numpy.random.normal(), numpy.random.seed(1)))
        with pytest.raises(ValueError, match="foreign"):
            enclosure.run(failing)


def failing():
    random.random()
    raise ValueError("foreign")


def test_what_a_call_writes_to_files_is_dropped_and_what_others_write_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "word").write_text("kept")

    def notes():
        for mode in ("a", "w", "x"):
            with open("notes.txt", mode) as file:
                file.write("first word\n")
        Path("more.txt").write_text("more")
        with tempfile.TemporaryFile("w+") as file:
            file.write("draft")
            file.seek(0)
            draft = file.read()
        other = threading.Thread(target=lambda: Path("journal").write_text("ours"))
        other.start()
        other.join()
        return Path("word").read_text(), draft

    before = open
    assert Enclosure(0, 5.0).run(notes) == ("kept", "draft")
    assert open is before is io.open
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"word": "kept", "journal": "ours"}


def test_outside_the_main_thread_calls_run_without_a_limit():
    found = []
    thread = threading.Thread(target=lambda: found.append(Enclosure(0, 0.01).run(lambda: sum(range(10**6)))))
    thread.start()
    thread.join()
    assert found == [sum(range(10**6))]


def test_a_call_that_takes_too_long_is_stopped_and_the_next_is_not():
    enclosure = Enclosure(0, 0.05)

    def forever():
        while True:
            pass

    with pytest.raises(Overrun):
        enclosure.run(forever)
    assert enclosure.run(lambda: 3) == 3


@pytest.mark.parametrize(
    ("lines", "moves"),
    [
        (["Available Moves: '[0]', '[4]'"], ["[0]", "[4]"]),
        (["Your available actions are: '[check]', '[bet]'"], ["[check]", "[bet]"]),
        (["Your possible actions: '[check]', '[bet X]'"], ["[check]"]),
        (["Available moves: [a]", "nothing", "Valid moves: [b], [b]\nAvailable moves: none"], ["[b]"]),
        (["Say anything in [brackets]"], []),
    ],
)
def test_what_the_text_lists_as_legal(lines, moves):
    assert listed(lines) == moves


def test_the_random_player_draws_what_is_listed_else_something_in_brackets():
    _, asked = play(rules(), "[go]")
    draw = random.Random(0)
    assert random_player(asked[0], draw, draw) == "[go]"
    unlisted = {random_player(asked[2], random.Random(seed), draw) for seed in range(40)}
    assert "[go]" in unlisted and len(unlisted) > 3 and all(text[0] == "[" and text[-1] == "]" for text in unlisted)


def test_the_table_of_environments():
    assert len(table()) >= 90 and known("LiarsDice-v0-small").players == tuple(range(2, 16))
    assert known("Taboo-v0-city/country").players[:3] == (4, 6, 8) and known("Nobody-v0") == Environment()
    assert all(each.returns[0] <= 0.0 <= each.returns[1] for each in table().values())


def test_seats_are_checked_against_the_table():
    pair = Environment(players=(2, 4))
    assert (pair.seats("Nim-v0", None), pair.seats("Nim-v0", 4), Environment().seats("New-v0", 3)) == (2, 4, 3)
    with pytest.raises(InputError, match=r"game\.players is 3: Nim-v0 takes 2, 4"):
        pair.seats("Nim-v0", 3)
    with pytest.raises(InputError, match="a number that this version of parley does not know"):
        Environment().seats("New-v0", None)


def test_what_is_missing_is_named_with_what_brings_it(monkeypatch, tmp_path):
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    needing = Environment(needs=("python9.1", "no_such_module", "nltk:corpora/no_words"))
    assert needing.lacks() == [
        "Python 9.1 or newer",
        "the package no_such_module: pip install no_such_module",
        "NLTK's corpora/no_words: python -m nltk.downloader no_words",
    ]
    (tmp_path / "corpora" / "no_words").mkdir(parents=True)
    assert len(needing.lacks()) == 2
    with pytest.raises(InputError, match=r"game\.env=Wordle-v0 needs Python 9\.1"):
        needing.check("Wordle-v0")
    with pytest.raises(InputError, match="cannot be played: it asks"):
        Environment(refused="it asks somebody").check("Debate-v0")


def test_warnings_of_one_environment_do_not_hide_a_second_match():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        play(rules(Raises), "[go]")
        play(rules(Raises), "[go]")
    assert len(heard) == 2
