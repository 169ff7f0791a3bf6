"""Kuhn, Leduc and matrix games: the kit, the rules move by move, the scripts, bad input."""

from collections.abc import Sequence
from random import Random

import pytest
from parley.games import conformance
from parley.games.base import Facts, Reply, Request, Result, Scenario
from parley.games.exact import Kuhn, Leduc, Matrix
from parley.games.exact.kuhn import CARDS
from parley.games.scripts import Mixed, legal_replies, uniform
from parley.system.files import InputError

RPS = {"moves": ["rock", "paper", "scissors"], "payoffs": [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]}
DILEMMA = {"moves": ["trust", "cheat"], "payoffs": [[[2, 2], [0, 3]], [[3, 0], [1, 1]]]}
GAMES = [
    Kuhn(), Kuhn("chat", retries=2, fine=3), Leduc(), Leduc("chat", retries=1), Matrix(**RPS),
    Matrix(**DILEMMA, prompt="chat", retries=1), Matrix(["a", "b"], [[1, 0, 2], [0, 3, 1]], ["x", "y", "z"]),
]  # fmt: skip


def play(game, scenario: Scenario, replies: Sequence[str]) -> tuple[Result, list[Request]]:
    match = game.match(scenario, 0)
    asked, requests = list(match.start()), []
    for text in replies:
        requests += asked
        asked = list(match.step([Reply(asked[0].id, text)]))
    assert not asked, f"still asked: {asked}"
    return match.result(), requests


def deal(game, **cards: str) -> Scenario:
    return next(each for each in game.scenarios("test") if each.data == cards)


@pytest.mark.parametrize("name", conformance.CHECKS)
@pytest.mark.parametrize("game", GAMES, ids=lambda game: f"{game.name}{game.retries}")
def test_the_kit_passes(game, name):
    conformance.CHECKS[name](game, matches=30, seed=1)


@pytest.mark.parametrize(
    ("replies", "won"),
    [("pass pass", 1), ("bet pass", 1), ("bet bet", 2), ("pass bet pass", -1), ("pass bet bet", 2)],
)
def test_kuhn_is_settled_by_the_rules(replies, won):
    game = Kuhn()
    result, _ = play(game, deal(game, first="K", second="J"), replies.split())
    assert result.returns == {"first": won, "second": -won} and result.metrics["first_score"] == won
    low, _ = play(game, deal(game, first="J", second="K"), replies.split())
    folds = "bet pass" in replies or replies.endswith("bet pass")
    assert low.returns["first"] == (won if folds else -won)


@pytest.mark.parametrize(
    ("cards", "replies", "won"),
    [
        ("KJQ", "call call call call", 1),
        ("KJJ", "call call call call", -1),  # a pair beats a higher card
        ("QQK", "raise call raise call", 0),
        ("KJQ", "raise raise call raise raise call", 13),
        ("JKQ", "raise fold", 1),
        ("KJQ", "call raise raise fold", 3),
        ("KJQ", "call raise call call raise fold", -3),
    ],
)
def test_leduc_is_settled_by_the_rules(cards, replies, won):
    game = Leduc()
    result, asked = play(game, deal(game, first=cards[0], second=cards[1], public=cards[2]), replies.split())
    assert result.returns == {"first": won, "second": -won}
    for request, said in zip(asked, replies.split(), strict=True):
        assert said in legal_replies(request)
    assert ("tie" in result.outcome_by_seat.values()) == (won == 0)


def test_leduc_offers_a_fold_only_to_who_is_behind_and_two_raises_a_round():
    game = Leduc()
    _, asked = play(game, game.scenarios("test")[0], ["raise", "raise", "call", "call", "call"])
    listed = [legal_replies(request) for request in asked]
    assert listed == [
        ("call", "raise"), ("fold", "call", "raise"), ("fold", "call"), ("call", "raise"), ("call", "raise"),
    ]  # fmt: skip


def test_a_matrix_pays_by_its_table_and_hides_the_first_choice():
    game = Matrix(**DILEMMA)
    result, asked = play(game, game.scenarios("test")[0], ["cheat", "trust"])
    assert result.returns == {"first": 3, "second": 0} and not game.facts.zero_sum
    assert asked[0].messages == asked[1].messages  # nothing tells the second seat what the first has chosen


@pytest.mark.parametrize(
    ("game", "replies", "returns"),
    [
        (Kuhn(), ["raise"], {"first": -2, "second": 2}),
        (Kuhn(retries=1), ["raise", "bet", "Bet", "bets"], {"first": 2, "second": -2}),
        (Leduc(), ["call", "fold"], {"first": 13, "second": -13}),
        (Matrix(**RPS), ["rock", "gun"], {"first": 1, "second": -1}),
        (Matrix(**DILEMMA), ["gun"], {"first": 0, "second": 1.5}),
    ],
)
def test_a_seat_without_a_legal_reply_pays(game, replies, returns):
    result, asked = play(game, game.scenarios("test")[0], replies)
    assert result.returns == returns and result.blame == (asked[-1].seat,)
    assert result.metrics["invalid_rate"] == 1 and "retry" in result.marks[asked[-1].id]


def test_mixed_scripts_draw_with_the_chances_that_they_state():
    match = Kuhn().match(Scenario("KJ", {"first": "K", "second": "J"}), 0)
    (request,) = match.start()
    for name, script in Kuhn().scripts().items():
        assert isinstance(script, Mixed), name
        drawn = [script(request, Random(seed), Random(0)) for seed in range(4000)]
        assert abs(drawn.count("bet") / 4000 - script.chances(request)["bet"]) < 0.03, name
    with pytest.raises(ValueError, match="lists no legal replies"):
        uniform(Request("a.1", "a", ()), Random(0), Random(0))


def test_the_deals_are_all_there_and_equally_likely():
    assert [each.id for each in Kuhn().scenarios("train")] == [a + b for a in CARDS for b in CARDS if a != b]
    deals = Leduc().scenarios("train")
    assert len({each.id for each in deals}) == 120 and len({each.cluster for each in deals}) == 24


@pytest.mark.parametrize(
    ("words", "payoffs", "told"),
    [
        (["a", "a"], [[0, 0], [0, 0]], "different words"),
        (["a", " b"], [[0, 0], [0, 0]], "different words"),
        (["a", "b"], [[0, 0]], "2 rows of 2 entries"),
        (["a", "b"], [[0], [0, 1]], "2 rows of 2 entries"),
        (["a"], [[[1, 2, 3]]], "one number or"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(words, payoffs, told):
    with pytest.raises(InputError, match=told):
        Matrix(words, payoffs)


class Wrong(Kuhn):
    """A Kuhn game that breaks one promise of an enumerable game."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def match(self, scenario, seed):
        match, fault = super().match(scenario, seed), self.fault

        class Changed:
            def start(self):
                return [self.changed(each) for each in match.start()]

            def step(self, replies):
                return [self.changed(each) for each in match.step(replies)]

            def result(self):
                result = match.result()
                first = result.returns["first"] + (seed % 1000 if fault == "chance" else 0)
                return Result({**result.returns, "first": first}, result.outcome, blame=result.blame)

            def changed(self, request):
                legal = {"unlisted": None, "illegal": ["pass", "dance"], "twice": ["pass", "pass"]}.get(
                    fault, ["pass", "bet"]
                )
                if fault == "differs" and scenario.id == "JQ":
                    legal = ["pass"]
                seen = {} if legal is None else {"legal": legal}
                return Request(request.id, request.seat, request.messages, observation=seen)

        return Changed()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("chance", "another seed"), ("unlisted", "lists no legal"), ("illegal", "put a seat out"), ("twice", "twice"),
        ("differs", "where the seat saw the same"),
    ],
)  # fmt: skip
def test_the_kit_names_a_broken_promise_of_an_enumerable_game(fault, told):
    with pytest.raises(conformance.ConformanceError, match=told):
        conformance.CHECKS["enumerable"](Wrong(fault), matches=60, seed=0)


def test_an_enumerable_game_holds_nothing_out():
    class Split(Kuhn):
        def __init__(self):
            super().__init__()
            self.facts = Facts(-2, 2, 3, 0, zero_sum=True, enumerable=True)

    with pytest.raises(conformance.ConformanceError, match="held_out=False"):
        conformance.CHECKS["enumerable"](Split())
