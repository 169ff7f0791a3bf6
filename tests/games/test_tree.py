"""The walker against OpenSpiel's stored numbers, Kuhn's equilibria, brute force, and identities over many policies."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from random import Random

import pytest
from parley.games.base import Facts, GeneratorMatch, Request, Result, Scenario, View
from parley.games.deal import Deal
from parley.games.exact import Kuhn, Leduc, Matrix
from parley.games.exact.kuhn import betting, equilibrium
from parley.games.scripts import Mixed
from parley.games.tree import (
    Policy,
    Tree,
    averaged,
    best_response,
    exploitability,
    gains,
    grown,
    reaches,
    values,
)
from parley.system.files import InputError

ORACLE = json.loads((Path(__file__).parents[1] / "fixtures/openspiel.json").read_text())["games"]
SEATS = ("first", "second")
TREES = {"kuhn": grown(Kuhn(), 100), "leduc": grown(Leduc(), 3000)}


def of(tree: Tree, script: Mixed) -> Policy:
    return {info: script.chances(request) for info, request in tree.requests.items()}


def drawn(tree: Tree, seed: object) -> Policy:
    """A policy whose chances depend on nothing but the seed and what the seat knows, as when the oracle was asked."""
    found = {}
    for info, request in tree.requests.items():
        seen = request.observation or {}
        rounds = seen["moves"] if "public" in seen else [seen["moves"]]
        moves = "/".join("".join(move[0] for move in moves) for moves in rounds)
        words = [seed, request.seat, seen["card"], seen.get("public", ""), moves]
        chances = [Random("/".join([*map(str, words), reply])).random() for reply in tree.replies(info)]
        found[info] = {reply: each / sum(chances) for reply, each in zip(tree.replies(info), chances, strict=True)}
    return found


def alike(tree: Tree) -> Policy:
    return {info: dict.fromkeys(tree.replies(info), 1 / len(tree.replies(info))) for info in tree.requests}


@pytest.mark.parametrize(("game", "seed"), [(game, seed) for game, rows in ORACLE.items() for seed in rows])
def test_values_and_best_responses_are_those_of_openspiel(game, seed):
    tree, told = TREES[game], ORACLE[game][seed]
    policy = alike(tree) if seed == "uniform" else drawn(tree, seed)
    now = values(tree, policy)
    assert [now[seat] for seat in SEATS] == pytest.approx(told["values"], abs=1e-12)
    best = [best_response(tree, seat, policy).value for seat in SEATS]
    assert best == pytest.approx(told["best_response"], abs=1e-12)
    assert exploitability(tree, policy) == pytest.approx(told["exploitability"], abs=1e-12)


def test_uniform_play_is_as_exploitable_as_published():
    assert f"{exploitability(TREES['kuhn'], alike(TREES['kuhn'])):.4f}" == "0.4583"
    assert f"{exploitability(TREES['leduc'], alike(TREES['leduc'])):.4f}" == "2.3736"
    assert [len(tree.requests) for tree in TREES.values()] == [12, 288]


@pytest.mark.parametrize("alpha", [0, 1 / 6, 1 / 4, 1 / 3])
def test_kuhns_equilibria_cannot_be_exploited(alpha):
    script = betting(equilibrium(alpha))
    assert isinstance(script, Mixed)
    policy = of(TREES["kuhn"], script)
    assert values(TREES["kuhn"], policy)["first"] == pytest.approx(-1 / 18, abs=1e-12)
    assert exploitability(TREES["kuhn"], policy) == pytest.approx(0, abs=1e-12)


def test_the_chat_prompt_has_the_same_tree():
    chat = grown(Kuhn("chat"), 100)
    assert chat.nodes == TREES["kuhn"].nodes
    assert exploitability(chat, drawn(chat, 3)) == pytest.approx(ORACLE["kuhn"]["3"]["exploitability"], abs=1e-12)


def test_a_best_response_is_the_best_of_all_pure_policies():
    tree, policy = TREES["kuhn"], drawn(TREES["kuhn"], 7)
    for seat in SEATS:
        mine = [info for info in tree.requests if info[0] == seat]
        pure = [
            {**policy, **{info: {reply: 1.0} for info, reply in zip(mine, chosen, strict=True)}}
            for chosen in product(*(tree.replies(info) for info in mine))
        ]
        found = best_response(tree, seat, policy)
        assert found.value == pytest.approx(max(values(tree, each)[seat] for each in pure), abs=1e-12)
        played = {**policy, **{info: {reply: 1.0} for info, reply in found.replies.items()}}
        assert values(tree, played)[seat] == pytest.approx(found.value, abs=1e-12)


@pytest.mark.parametrize("game", TREES)
def test_gains_are_never_negative_and_values_sum_to_zero(game):
    tree = TREES[game]
    for seed in range(5):
        policy = drawn(tree, seed)
        assert min(gains(tree, policy).values()) >= -1e-12
        assert sum(values(tree, policy).values()) == pytest.approx(0, abs=1e-12)


def test_an_averaged_policy_pays_the_mean_of_its_parts_against_anybody():
    tree = TREES["kuhn"]
    parts = [drawn(tree, seed) for seed in range(3)]
    mixed, rival = averaged(tree, parts), drawn(tree, 9)

    def paid(policy: Policy) -> float:
        return values(tree, {info: (policy if info[0] == "first" else rival)[info] for info in tree.requests})["first"]

    assert paid(mixed) == pytest.approx(sum(map(paid, parts)) / 3, abs=1e-12)
    assert all(sum(each.values()) == pytest.approx(1) for each in mixed.values())


def test_an_averaged_policy_counts_a_part_only_where_its_own_replies_lead():
    tree = TREES["kuhn"]
    bold, shy = ({info: {"pass": 1 - bet, "bet": bet} for info in tree.requests} for bet in (1.0, 0.0))
    mixed = averaged(tree, [bold, shy])
    asked_again = [info for info in tree.requests if any(message.role == "assistant" for message in info[1])]
    assert asked_again and all(mixed[info]["bet"] == 0 for info in asked_again)  # only who passed is asked again


def test_reaches_are_how_often_a_policy_comes_by():
    tree, policy = TREES["leduc"], drawn(TREES["leduc"], 2)
    found = reaches(tree, policy)
    first = [info for info in tree.requests if len(info[1]) == 2 and info[0] == "first"]
    assert sum(found[info] for info in first) == pytest.approx(1) and 0 < min(found.values()) < max(found.values()) <= 1


class Pennies:
    """Both seats choose at once (two open requests), twice; the first wants to match."""

    name, version, roles = "pennies", 1, SEATS
    facts = Facts(-2.0, 2.0, 4, 0, zero_sum=True, held_out=False, enumerable=True)

    def scenarios(self, split):
        return [Scenario("only", {})]

    def scripts(self):
        return {}

    def match(self, scenario, seed):
        return GeneratorMatch(self.turns())

    def turns(self):
        views, score = {seat: View(seat, "heads or tails") for seat in SEATS}, 0.0
        for _ in range(2):
            for view in views.values():
                view.tell("choose")
            replies = yield [views[seat].ask(observation={"legal": ["heads", "tails"]}) for seat in SEATS]
            for seat, reply, other in zip(SEATS, replies, replies[::-1], strict=True):
                views[seat].hear(reply)
                views[seat].tell(f"they said {other.text}")
            score += 1.0 if replies[0].text == replies[1].text else -1.0
        return Result({"first": score, "second": -score}, "over")


def test_simultaneous_moves_are_unseen():
    tree = grown(Pennies(), 200)
    assert len(tree.requests) == 2 * (1 + 4)
    assert exploitability(tree, alike(tree)) == pytest.approx(0, abs=1e-12)
    heads = {info: {"heads": 1.0, "tails": 0.0} for info in tree.requests}
    assert gains(tree, heads) == {"first": 0.0, "second": 4.0}


def test_a_general_sum_game_has_a_gain_for_each_seat():
    tree = grown(Matrix(["trust", "cheat"], [[[2, 2], [0, 3]], [[3, 0], [1, 1]]]), 100)
    trust = {info: {"trust": 1.0, "cheat": 0.0} for info in tree.requests}
    assert values(tree, trust) == {"first": 2.0, "second": 2.0} and gains(tree, trust) == {"first": 1.0, "second": 1.0}


def test_only_a_game_that_says_so_is_walked_and_no_further_than_asked():
    with pytest.raises(InputError, match="deal cannot be walked: its facts do not declare it enumerable"):
        grown(Deal(), 100)
    with pytest.raises(InputError, match=r"leduc has more than 2,000 nodes: say task.at_most="):
        grown(Leduc(), 2000)


def test_requests_are_as_play_asks_them():
    assert all(
        isinstance(request, Request) and request.seat == info[0] for info, request in TREES["kuhn"].requests.items()
    )
