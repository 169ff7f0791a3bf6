"""Preference pairs of one turn's continuations: who stands against whom, and what is supervised."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from parley.credit import Contrast, NothingKept
from parley.data.episode import Episode
from test_advantage import ME, OTHER, match

TURNS = [("a", 2), ("b", 1), ("a", 1), ("b", 1), ("a", 1)]


def branch(name: str, root: Episode, turns: int, returns: dict[str, float], **result: Any) -> Episode:
    """A continuation of `root`: the same turns up to there, other tokens after them."""
    made = match(name, returns, TURNS, players=dict(root.players), **result)
    fresh = [
        replace(turn, call=replace(turn.call, sampled_ids=tuple(7 + each for each in turn.call.sampled_ids)))
        for turn in made.turns[turns:]
        if turn.call
    ]
    return replace(made, turns=(*root.turns[:turns], *fresh), parent=(root.id, turns))


def random_round(seed: int) -> list[Episode]:
    draw, found = random.Random(seed), list[Episode]()
    for number in range(4):
        players = {"a": ME, "b": draw.choice([ME, OTHER])}
        paid = [{seat: draw.choice([0.0, 1.0, 2.0]) for seat in "ab"} for _ in range(4)]
        root = match(f"m{number}", paid[0], TURNS, players=players)
        cut = draw.choice([at for at, (seat, _) in enumerate(TURNS) if players[seat] == ME])
        many = draw.choice([0, 1, 3])
        found += [root, *(branch(f"x{number}{at}", root, cut, paid[at + 1]) for at in range(many))]
    return found


def slowly(played: list[Episode]) -> set[tuple[str, str, str]]:
    """(better, worse, seat) of each pair."""
    pairs = set()
    for root in (each for each in played if each.parent is None):
        family = [each for each in played if each.parent and each.parent[0] == root.id]
        if family:
            seat = TURNS[family[0].parent[1]][0]  # type: ignore[index]
            ranked = sorted([root, *family], key=lambda each: each.id)
            best = max(ranked, key=lambda each: each.result.returns[seat])  # the first of equals
            worst = min(ranked, key=lambda each: each.result.returns[seat])
            if best.result.returns[seat] > worst.result.returns[seat]:
                pairs.add((best.id, worst.id, seat))
    return pairs


@pytest.mark.parametrize("seed", range(30))
def test_the_better_continuation_stands_against_the_worse(seed: int) -> None:
    played = random_round(seed)
    if not (expected := slowly(played)):
        with pytest.raises(NothingKept):
            Contrast("turn")(played, ME)
        return
    credited = Contrast("turn")(played, ME)
    sides: dict[str, dict[int, Any]] = {}
    for sample in credited.samples:
        sides.setdefault(str(sample.group), {})[sample.utterances[0].side] = sample
    found = set()
    for group, side in sides.items():
        best, seat = group.split("/")
        worst = side[-1].id.split("/")[0]
        found.add((best, worst, seat))
        prompts = [each.token_ids[: each.utterances[0].start] for each in side.values()]
        assert prompts[0] == prompts[1]  # the same history, and nothing of it is supervised
    assert found == expected
    chosen = {(each.match, each.seat) for each in credited.table if each.kept}
    assert chosen == {(name, seat) for best, worst, seat in expected for name in (best, worst)}


def test_of_the_better_side_only_what_is_legal_is_supervised() -> None:
    root = match("m", {"a": 0.0, "b": 0.0}, TURNS)
    better = branch("x", root, 2, {"a": 1.0, "b": 0.0}, marks={"r2": {"retry": "no"}})
    found = {
        sample.id: [each.side for each in sample.utterances] for sample in Contrast("turn")([root, better], ME).samples
    }
    assert found == {"x/a/real": [1], "m/a/0": [-1, -1]}
    swapped = branch("x", root, 2, {"a": -1.0, "b": 0.0}, marks={"r2": {"retry": "no"}})
    found = {
        sample.id: [each.side for each in sample.utterances] for sample in Contrast("turn")([root, swapped], ME).samples
    }
    assert found == {"m/a/real": [1, 1], "x/a/0": [-1, -1]}


def test_whoever_does_not_speak_there_is_compared_with_nobody() -> None:
    root = match("m", {"a": 0.0, "b": 5.0}, TURNS)
    found = Contrast("turn")([root, branch("x", root, 2, {"a": 1.0, "b": 0.0})], ME)
    assert {each.seat for each in found.table if each.kept} == {"a"}
    assert {each.why for each in found.table if each.seat == "b"} == {"its seat does not speak where a match branched"}
    with pytest.raises(ValueError, match="within is 'reply', expected scenario or turn"):
        Contrast("reply")  # type: ignore[arg-type]
