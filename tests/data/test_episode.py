import json
from random import Random

import pytest
from parley.data.episode import Call, Episode, Turn, streams
from parley.games.base import Result, Scenario


def episode(turns=(), **fields):
    plain = {
        "id": "play/s-1/0",
        "game": "g",
        "game_version": 2,
        "scenario": Scenario("s-1", {"word": "tea", "n": [1, 2]}, "s"),
        "seed": 2**62,
        "players": {"a": "x", "b": "y"},
        "policies": {"a": "v1", "b": ""},
        "turns": tuple(turns),
        "result": Result(
            {"a": 1.0, "b": -1.0},
            "won",
            {"a": "won", "b": "lost"},
            ("b",),
            {"m": 1.5, "s": {"a": 1, "b": 2}},
            {"a.1": {"r": 0}},
        ),
    }
    return Episode(**{**plain, **fields})


NASTY = 'a "quoted"\nline \u2028 \U0001f600 \udc80'
TURNS = (
    Turn("a.1", "a", "act", NASTY, "length", Call((1, 2), (3,), (-0.1234567890123456,), "v1", sampling={"top_p": 1.0})),
    Turn("b.1", "b", "judge", "", "context"),
)


def test_json_gives_back_an_equal_episode():
    for one in (episode(), episode(TURNS)):
        assert Episode.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("schema", [None, 0, 2, "1"])
def test_another_schema_is_refused(schema):
    data = {**episode().to_json(), "schema": schema}
    with pytest.raises(ValueError, match="this parley reads 1"):
        Episode.from_json(data)


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"turns": None}, {"scenario": {"name": "x"}}, {"turns": [{"call": None}]}]
)
def test_a_foreign_object_is_refused(change):
    with pytest.raises((TypeError, KeyError)):
        Episode.from_json({**episode().to_json(), **change})


def call(prompt, sampled, parent=None, shared=0, fork=None):
    return Call(tuple(prompt), tuple(sampled), tuple(-float(token) for token in sampled), "v1", parent, shared, fork)


def turn(request, call, seat="a"):
    return Turn(request, seat, "act", "t", "stop", call)


def test_a_stream_typed_by_hand():
    turns = [
        turn("a.1", call([1, 2], [3, 4])),
        turn("b.1", call([9], [8]), "b"),
        turn("a.2", call([5], [6], "a.1", 4)),
        turn("a.3", call([7], [8, 9], "a.2", 2, "history rewritten")),
    ]
    first, second = streams(episode(turns), "a")
    assert (first.token_ids, first.spans, first.logprobs) == (
        (1, 2, 3, 4, 5, 6),
        {"a.1": (2, 4), "a.2": (5, 6)},
        (-3.0, -4.0, -6.0),
    )
    assert (second.token_ids, second.spans, second.logprobs) == ((1, 2, 7, 8, 9), {"a.3": (3, 5)}, (-8.0, -9.0))
    assert [stream.token_ids for stream in streams(episode(turns), "b")] == [(9, 8)]
    assert streams(episode([Turn("a.1", "a", "act", "scripted")]), "a") == []


@pytest.mark.parametrize("seed", range(50))
def test_every_sampled_token_stands_in_exactly_one_stream_after_what_the_model_saw(seed):
    rng, turns, seen = Random(seed), [], {}
    for number in range(1, 9):
        parent = rng.choice([None, *seen]) if number > 1 else None
        history = sum(seen[parent], ()) if parent else ()
        shared = rng.choice([len(history), rng.randint(0, len(history))])
        prompt = tuple(rng.randrange(100) for _ in range(rng.randint(0, 3)))
        sampled = tuple(rng.randrange(1000, 2000) for _ in range(rng.randint(1, 3)))
        seen[f"a.{number}"] = (history[:shared] + prompt, sampled)
        turns.append(turn(f"a.{number}", call(prompt, sampled, parent, shared)))
    found = streams(episode(turns), "a")
    spans = [(request, stream, span) for stream in found for request, span in stream.spans.items()]
    assert sorted(request for request, _, _ in spans) == sorted(seen)
    for request, stream, (start, end) in spans:
        assert (stream.token_ids[:start], stream.token_ids[start:end]) == seen[request]
    for stream in found:
        sampled = [token for start, end in sorted(stream.spans.values()) for token in stream.token_ids[start:end]]
        assert stream.logprobs == tuple(-float(token) for token in sampled)
