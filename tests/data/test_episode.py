import json
from dataclasses import replace
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
    Turn("b.1", "b", "judge", "", "context", thought="I " + NASTY, seconds=0.25),
)


def test_json_gives_back_an_equal_episode():
    for one in (episode(), episode(TURNS), episode(TURNS, parent=("play/s-1/9", 1), game_version="2.1-rc")):
        assert Episode.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_unknown_fields_are_kept_through_a_round_trip():
    data = json.loads(json.dumps(episode(TURNS).to_json()))
    data |= {"rated": {"by": ["p", None]}, "turns": [{**data["turns"][0], "mood": 0}, data["turns"][1]]}
    read = Episode.from_json(data)
    assert (read.extra, read.turns[0].extra, read.turns[1].extra) == ({"rated": {"by": ["p", None]}}, {"mood": 0}, {})
    assert read.to_json() == data


def test_schema_1_is_read():
    """As 0.1.0 wrote it: `blame` is a seat or None, and what came later is not there."""
    for blame, told in (("b", ("b",)), (None, ())):
        data = json.loads(json.dumps(episode(TURNS[:1]).to_json()))
        del data["parent"]
        data |= {"schema": 1, "result": {**data["result"], "blame": blame}}
        read = Episode.from_json(data)
        assert read == episode(TURNS[:1], result=replace(episode().result, blame=told))


@pytest.mark.parametrize("schema", [None, 0, 3, "1"])
def test_another_schema_is_refused(schema):
    data = {**episode().to_json(), "schema": schema}
    with pytest.raises(ValueError, match="this parley reads 1 and 2"):
        Episode.from_json(data)


@pytest.mark.parametrize(
    "change", [{"result": {"x": 1}}, {"turns": None}, {"scenario": {"name": "x"}}, {"turns": [{"call": None}]}]
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


def test_turns_of_a_parent_are_context_of_the_streams():
    turns = [turn("a.1", call([1, 2], [3, 4])), turn("a.2", call([5], [6], "a.1", 4)), turn("b.1", call([9], [8]), "b")]
    [stream] = streams(episode(turns, parent=("m", 1)), "a")
    assert (stream.token_ids, stream.spans, stream.logprobs) == ((1, 2, 3, 4, 5, 6), {"a.2": (5, 6)}, (-6.0,))
    assert episode(turns, parent=("m", 1)).own == tuple(turns[1:]) and episode(turns).own == tuple(turns)
    assert streams(episode(turns, parent=("m", 2)), "a") == [] != streams(episode(turns, parent=("m", 2)), "b")


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
