"""What a server says of itself is checked: hostile answers through the real client, and the ceiling that holds."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parley.backends.answer import completion as read
from parley.play.player import Prompt
from parley.system.spending import SpendingLimit
from test_openai import answers, key, lines, prompt, talking  # noqa: F401  # `key` is a fixture

from openai_server import KEY, REAL, Server, completion

pytest.importorskip("openai")
pytestmark = pytest.mark.skipif(bool(REAL), reason="needs the fake server's own answers")
PRICES = {"price_prompt": 1e6, "price_completion": 1e6, "price_cached": 5e5}  # a token costs 1
BODY: dict[str, Any] = {"model": "m", "messages": [{"content": "hello there"}]}
DEEP = b"[" * 200_000
LIES: dict[str, Any] = {
    "empty": {}, "null": None, "text": "much", "list": [1, 2], "number": 3,
    "nan": {"prompt_tokens": float("nan"), "completion_tokens": 1},
    "negative": {"prompt_tokens": -1000, "completion_tokens": 1},
    "infinite": {"prompt_tokens": float("inf"), "completion_tokens": 1},
    "huge": {"prompt_tokens": 10**400, "completion_tokens": 1},
    "fraction": {"prompt_tokens": 1.5, "completion_tokens": 1},
    "truth": {"prompt_tokens": True, "completion_tokens": False},
    "half": {"prompt_tokens": 7},
    "words": {"prompt_tokens": "7", "completion_tokens": "1"},
    "cached": {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}},
    "nothing": {"prompt_tokens": 0, "completion_tokens": 0}, "no_prompt": {"prompt_tokens": 0, "completion_tokens": 1},
    "no_reply": {"prompt_tokens": 7, "completion_tokens": 0},
    "cached_negative": {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -800}},
}  # fmt: skip


def ids(body: dict[str, Any], **wrong: Any) -> dict[str, Any]:
    """An answer with token ids, log-probs and whatever is wrong with them."""
    said = {
        "token_ids": [1, 2],
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": 0.0}]},
        "prompt_token_ids": [3],
    }
    return completion(body, "so it", **said | wrong)


@pytest.mark.parametrize("usage", LIES.values(), ids=LIES)
def test_A2_usage_that_cannot_be_so_is_booked_at_the_most_it_can_cost(usage: Any, tmp_path: Path) -> None:
    with talking(Server(lambda body: completion(body, "so", usage=usage)), ledger=tmp_path / "l.jsonl", **PRICES) as (
        server,
        backend,
    ):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
        assert done.text == "so" and len(server.asked) == 1
    [booked, settled] = lines(tmp_path / "l.jsonl")
    assert settled["cost"] == booked["most"] > 8 and "prompt_tokens" not in settled


def test_A2_cached_tokens_are_cheaper_where_they_can_be_so(tmp_path: Path) -> None:
    told = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    with talking(Server(lambda body: completion(body, "so", usage=told)), ledger=tmp_path / "l.jsonl", **PRICES) as (
        _,
        backend,
    ):
        backend.submit([prompt()])
        answers(backend, 1)
    assert lines(tmp_path / "l.jsonl")[1]["cost"] == pytest.approx(3 + 4 / 2 + 2)


@pytest.mark.parametrize("seed", range(3))
def test_A2_a_lying_server_never_passes_the_ceiling_at_64_at_once(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    most = 200.0
    with talking(
        Server(lambda body: completion(body, "so", usage=draw.choice(list(LIES.values())))),
        ledger=tmp_path / "l.jsonl", max_cost=3.5 * most, concurrency=64, **PRICES,
    ) as (server, backend):  # fmt: skip
        backend.submit([prompt(number) for number in range(200)])
        with pytest.raises(SpendingLimit):
            answers(backend, 200)
        worst = lines(tmp_path / "l.jsonl")[0]["most"]
        assert len(server.asked) == int(3.5 * most // worst) > 1 and backend.ledger.spent <= 3.5 * most


UNREADABLE: dict[str, Any] = {
    "deep": DEEP, "deep_usage": b'{"choices": ' + DEEP, "latin": b'{"choices": "\xe9"}', "number": b"3",
    "null": b"null", "list": b"[]",
    "choices": b'{"choices": [1]}', "empty": b'{"choices": []}', "message": b'{"choices": [{}]}',
    "content": b'{"choices": [{"message": {"content": ["a"]}}]}', "nothing": b"", "page": b"<html></html>",
}  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_B11_servers_answers_that_cannot_be_read_are_asked_for_again_then_lost(body: bytes, tmp_path: Path) -> None:
    server = Server(faults=["raw", "raw", "raw"])
    server.raw = 200, {}, body
    with talking(server, ledger=tmp_path / "l.jsonl", retries=1, **PRICES) as (server, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
        assert done.finish == "error" and "2 attempts" in done.text and len(server.asked) == 2
        backend.submit([prompt(1)])
        assert answers(backend, 1)[0].finish == "stop"  # the third one is unreadable, too, and then all is well
    costs = [line["cost"] for line in lines(tmp_path / "l.jsonl") if "settle" in line]
    assert costs[:3] == [line["most"] for line in lines(tmp_path / "l.jsonl") if "book" in line][:3]


WRONG: dict[str, dict[str, Any]] = {
    "text": {"token_ids": ["a", "b"]}, "negative": {"token_ids": [-1, 2]}, "huge": {"token_ids": [2**70, 2]},
    "truth": {"token_ids": [True, 2]}, "float": {"token_ids": [1.0, 2]}, "no_list": {"token_ids": "ab"},
    "prompt": {"prompt_token_ids": ["a"]}, "prompt_null": {"prompt_token_ids": [None]},
    "null": {"logprobs": {"content": [{"logprob": None}, {"logprob": -1.0}]}},
    "above": {"logprobs": {"content": [{"logprob": 0.7}, {"logprob": -1.0}]}},
    "nan": {"logprobs": {"content": [{"logprob": float("nan")}, {"logprob": -1.0}]}},
    "infinite": {"logprobs": {"content": [{"logprob": float("-inf")}, {"logprob": -1.0}]}},
    "words": {"logprobs": {"content": [{"logprob": "-1"}, {"logprob": -1.0}]}},
    "short": {"logprobs": {"content": [{"logprob": -1.0}]}}, "other": {"logprobs": {"content": 3}},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_B11_servers_token_ids_and_logprobs_that_cannot_be_so_are_unreadable(wrong: dict[str, Any]) -> None:
    with talking(Server(lambda body: ids(body, **wrong)), token_ids=True, retries=1) as (server, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert done.finish == "error" and done.token_ids is None and "server's" in done.text and len(server.asked) == 2


def test_B11_servers_token_ids_are_taken_and_an_answer_without_them_is_none_the_worse() -> None:
    with talking(Server(ids), token_ids=True) as (_, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert (done.token_ids, done.prompt_ids, done.logprobs) == ((1, 2), (3,), (-0.5, 0.0))
    with talking(Server(lambda body: ids(body, logprobs=None)), token_ids=True) as (_, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert done.finish == "stop" and done.token_ids is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_B11_servers_redirects_are_not_followed(status: int) -> None:
    other, server = Server(), Server(faults=["raw"] * 9)
    server.raw = status, {"Location": f"{other.url}/chat/completions"}, b""
    with talking(server, retries=3) as (server, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert done.finish == "error" and other.url in done.text and "correct url" in done.text
    assert len(server.asked) == 1 and not other.asked
    other.close()


def test_B11_servers_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from parley.backends import wire

    monkeypatch.setattr(wire, "MOST_BYTES", 2**20)
    bomb = gzip.compress(json.dumps(completion(BODY, " " * 2**20)).encode())
    for headers, body, told in (
        ({}, json.dumps(completion(BODY, "x" * 2**20)).encode(), "longer than 1 MiB"),
        ({"Content-Encoding": "gzip"}, bomb, "compressed"),
    ):
        server = Server(faults=["raw"])
        server.raw = 200, headers, body
        with talking(server, retries=0) as (server, backend):
            backend.submit([prompt()])
            [done] = answers(backend, 1)
            assert done.finish == "error" and told in done.text
        assert server.headers[0]["accept-encoding"] == "identity"
    with talking(Server(lambda body: completion(body, "x " * 2**18))) as (_, backend):
        backend.submit([prompt()])
        assert answers(backend, 1)[0].text == "x " * 2**18


def test_B14_a_server_that_repeats_the_key_or_half_a_letter_gets_neither_into_the_records(tmp_path: Path) -> None:
    def talk(body: dict[str, Any]) -> dict[str, Any]:
        return completion(body, f"it is {KEY} \ud83d so", model=f"model {KEY}")

    with talking(Server(talk), ledger=tmp_path / "l.jsonl") as (_, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert done.text == "it is *** ? so"
    assert KEY not in (tmp_path / "l.jsonl").read_text()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("told", ["so be it", None, 3, ["a"], "", "\ud800"])
def test_A6_what_a_server_calls_reasoning_is_the_thought(field: str, told: Any) -> None:
    message = SimpleNamespace(content="aloud", refusal=None, **{field: told})
    answer = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])
    done = read(Prompt("m/a.1", "m/a", (), 0), answer, False)
    assert (done.text, done.thought) == ("aloud", told.encode(errors="replace").decode() if type(told) is str else "")
