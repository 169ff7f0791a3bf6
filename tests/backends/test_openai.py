"""The backend for servers: what it asks, what it makes of answers, and what it does about everything that goes wrong.

Against a real server (see openai_server.py): PARLEY_TEST_SERVER=http://…/v1 pytest tests/backends/test_openai.py
tests/play/test_served.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from parley.backends.openai import OpenAIBackend, Served, most_tokens, served
from parley.games.base import Message, Options
from parley.models.snapshot import Snapshot
from parley.play.player import Completion, Prompt, Sampling
from parley.system.files import InputError
from parley.system.spending import Ledger, SpendingLimit

from openai_server import KEY, REAL, Server, completion, echo, model_name

pytest.importorskip("openai")
MODEL = model_name()
fake_only = pytest.mark.skipif(bool(REAL), reason="needs the fake server's own answers")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-itself-which-no-other-server-may-see")


@contextmanager
def talking(server: Server | None = None, **settings: Any) -> Iterator[tuple[Server, OpenAIBackend]]:
    server = server or Server()
    backend = OpenAIBackend(
        **{"url": server.url, "key_env": "SERVER_KEY", "backoff_s": 0.01, "timeout_s": 20.0, **settings}
    )
    backend.load(served(MODEL))
    try:
        yield server, backend
    finally:
        backend.close()
        server.close()


def prompt(number: int = 0, words: str = "hello there", **more: Any) -> Prompt:
    settings = {"sampling": Sampling(max_tokens=8), "policy": MODEL, **more}
    return Prompt(f"m{number}/a.1", f"m{number}/a", (Message("user", words),), number, **settings)


def answers(backend: OpenAIBackend, count: int, seconds: float = 900.0) -> list[Completion]:
    found: list[Completion] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += backend.poll(0.05)
    assert len(found) == count, f"{len(found)} answers of {count}"
    return sorted(found, key=lambda done: int(done.id.split("/")[0][1:]))


def lines(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_every_prompt_is_answered_once_and_every_request_is_in_the_ledger(tmp_path: Path) -> None:
    with talking(ledger=tmp_path / "l.jsonl", price_prompt=2.0, price_completion=4.0) as (server, backend):
        backend.submit([prompt(number) for number in range(50)])
        done = answers(backend, 50)
        assert backend.poll(0.05) == []
    assert [each.id for each in done] == [f"m{number}/a.1" for number in range(50)] and len(server.asked) == 50
    assert {each.policy for each in done} == {MODEL} and {each.finish for each in done} <= {"stop", "length"}
    assert all(each.token_ids is None and each.call is None for each in done)
    written = lines(tmp_path / "l.jsonl")
    settled = [line for line in written if "settle" in line]
    assert len(written) == 100 and {line["for"] for line in written if "book" in line} == {each.id for each in done}
    for line in settled:
        assert (
            line["cost"] == pytest.approx((2 * line["prompt_tokens"] + 4 * line["completion_tokens"]) / 1e6)
            and line["model"]
        )
    assert all(
        0 < line["cost"] <= booked["most"]
        for line in settled
        for booked in written
        if booked.get("book") == line["settle"]
    )
    if not REAL:
        assert [each.text for each in done] == [f"{number} it is" for number in range(50)]


@fake_only
def test_what_is_asked_is_the_seats_view_and_its_sampling() -> None:
    said = (Message("system", "rules"), Message("user", "go"), Message("assistant", "hi", "a.0"), Message("user", "on"))
    options = Options(stop=("[END]",), max_tokens=5, schema={"type": "object"})
    sampling = Sampling(0.5, 0.9, 7, 64)
    with talking(token_ids=True, extra={"reasoning_effort": "low"}) as (server, backend):
        backend.submit([Prompt("m1/a.1", "m1/a", said, 2**70 + 5, options=options, sampling=sampling, policy=MODEL)])
        answers(backend, 1)
    [asked] = server.asked
    assert asked["messages"] == [{"role": message.role, "content": message.content} for message in said]
    assert {name: asked[name] for name in ("model", "temperature", "top_p", "top_k", "max_tokens", "stop")} == {
        "model": MODEL, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "max_tokens": 5, "stop": ["[END]"]
    }  # fmt: skip
    assert asked["seed"] == (2**70 + 5) % 2**63 and asked["return_token_ids"] is asked["logprobs"] is True
    assert (
        asked["response_format"]["json_schema"]["schema"] == {"type": "object"} and asked["reasoning_effort"] == "low"
    )


@fake_only
def test_how_a_reply_ended_is_an_outcome() -> None:
    def talk(body: dict[str, Any]) -> dict[str, Any]:
        word = body["messages"][0]["content"]
        more = {"refusal": "I will not"} if word == "refuse" else {}
        return completion(
            body,
            None if word == "refuse" else "so",
            {"cut": "length", "filter": "content_filter"}.get(word, "stop"),
            **more,
        )

    with talking(Server(talk)) as (_, backend):
        backend.submit([prompt(n, word) for n, word in enumerate(("say", "cut", "filter", "refuse"))])
        done = answers(backend, 4)
    assert [(each.finish, each.text) for each in done] == [
        ("stop", "so"),
        ("length", "so"),
        ("refusal", "so"),
        ("refusal", "I will not"),
    ]
    finishes = {"400 context_length_exceeded": "context", "400 content_filter": "refusal"}
    for fault, finish in {
        **finishes,
        **dict.fromkeys(("400 other", "401", "404", "429 insufficient_quota"), "error"),
    }.items():
        with talking(Server(faults=[fault])) as (server, backend):
            backend.submit([prompt()])
            [done_] = answers(backend, 1)
            assert done_.finish == finish and len(server.asked) == 1, fault
            assert KEY not in done_.text and (finish != "error" or "***" in done_.text)


FAULTS = ["429", "429 0.2", "500", "503", "408", "half", "json", "shape", "hang 2"]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived_and_paid_for_where_work_may_have_been_done(fault: str, tmp_path: Path) -> None:
    settings = {"ledger": tmp_path / "l.jsonl", "price_prompt": 1.0, "price_completion": 1.0}
    with talking(Server(faults=[fault, fault]), **settings, timeout_s=1.0 if "hang" in fault else 20.0) as (
        server,
        backend,
    ):
        backend.submit([prompt(7)])
        [done] = answers(backend, 1)
        assert (
            done.finish in ("stop", "length")
            and len(server.asked) == 3
            and backend.ledger.requests == 3
            and backend.ledger.held == 0
        )
    costs = [(line["cost"], line.get("prompt_tokens")) for line in lines(tmp_path / "l.jsonl") if "settle" in line]
    refused, most = fault[0].isdecimal(), lines(tmp_path / "l.jsonl")[0]["most"]
    assert [cost for cost, tokens in costs if tokens is None] == [0.0 if refused else most] * 2
    assert most == pytest.approx((most_tokens(prompt(7)) + 8) / 1e6)


def test_the_server_is_left_alone_for_as_long_as_it_asks() -> None:
    with talking(Server(faults=["429 0.5"])) as (server, backend):
        backend.submit([prompt()])
        while len(server.times) < 1:
            time.sleep(0.005)
        time.sleep(0.1)  # its refusal has arrived
        backend.submit([prompt(number) for number in range(1, 6)])
        answers(backend, 6)
    assert min(server.times[1:]) - server.times[0] >= 0.5
    with talking(Server(faults=["429 9999"])) as (server, backend):  # nobody waits for hours
        backend.submit([prompt()])
        [done] = answers(backend, 1, 5)
        assert done.finish == "error" and "429" in done.text


def test_a_server_that_stays_broken_loses_the_player_and_the_key_is_not_told() -> None:
    with talking(Server(faults=["500"] * 99), retries=3) as (server, backend):
        backend.submit([prompt()])
        [done] = answers(backend, 1)
    assert done.finish == "error" and "4 attempts" in done.text and "500" in done.text and len(server.asked) == 4
    assert KEY not in done.text and "***" in done.text


def test_polling_never_blocks_and_no_more_than_so_many_requests_are_under_way() -> None:
    with talking(Server(delay_s=0.4), concurrency=5) as (server, backend):
        began = time.perf_counter()
        backend.submit([prompt(number) for number in range(20)])
        assert backend.poll(0.0) == [] and not backend.busy
        assert time.perf_counter() - began < 0.3  # before any answer
        answers(backend, 20)
    assert server.most_flying == 5


def test_what_was_cancelled_is_never_told_and_may_be_asked_again() -> None:
    gate = Event()

    def talk(body: dict[str, Any]) -> dict[str, Any]:
        gate.wait(60)
        return echo(body)

    def until_asked(count: int) -> None:
        while len(server.asked) < count:
            time.sleep(0.01)

    with talking(Server(talk)) as (server, backend):
        backend.submit([prompt(1), prompt(2)])
        until_asked(2)
        backend.cancel(["m1/a.1", "unknown"])
        backend.submit([prompt(1)])
        until_asked(3)
        gate.set()
        assert [each.id for each in answers(backend, 2)] == ["m1/a.1", "m2/a.1"]
        assert backend.poll(0.2) == [] and len(server.asked) == 3
    with talking(Server(faults=["hang 5"])) as (_, backend):
        backend.submit([prompt()])
        time.sleep(0.05)
        began = time.perf_counter()
        backend.close()
        assert time.perf_counter() - began < 2


# --- ceilings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [[], ["half", "500"] * 2])
def test_the_ceiling_on_cost_holds_and_what_was_paid_is_delivered(faults: list[str], tmp_path: Path) -> None:
    booked: list[bool] = []
    ledger = tmp_path / "l.jsonl"

    def talk(body: dict[str, Any]) -> dict[str, Any]:
        booked.append(any("book" in line and f"m{body['seed']}/" in line for line in ledger.read_text().splitlines()))
        return completion(body, "one two three")

    settings = {
        "price_prompt": 1e6,
        "price_completion": 1e6,
        "max_cost": 600.0,
        "ledger": ledger,
        "concurrency": 4,
    }  # a token costs 1
    found: list[Completion] = []
    with talking(Server(talk, faults), **settings) as (server, backend):
        backend.submit([prompt(number) for number in range(500)])
        with pytest.raises(SpendingLimit, match="the ceiling of 600"):
            while True:
                found += backend.poll(0.05)
        assert server.flying == 0 and len(found) == server.answered  # none that was paid for is lost
    assert all(booked) and len(booked) >= len(found) > 20
    spent = sum(line["cost"] for line in lines(ledger) if "settle" in line)
    assert 600 - most_tokens(prompt(499)) - 8 < spent <= 600 and spent >= 5 * server.answered
    with talking(**settings) as (server, backend):  # a resumed run knows what was spent
        backend.submit([prompt(number) for number in range(500, 503)])
        with pytest.raises(SpendingLimit):
            answers(backend, 1, 5)
        assert server.asked == []


def test_the_ceiling_on_requests_counts_every_attempt() -> None:
    with talking(Server(faults=["500"]), max_requests=3) as (server, backend):
        backend.submit([prompt(number) for number in range(9)])
        with pytest.raises(SpendingLimit, match="ceiling of 3 requests"):
            answers(backend, 9, 10)
        assert len(server.asked) == 3
    with pytest.raises(InputError, match="price_prompt"):
        OpenAIBackend(max_cost=5.0)


def test_a_request_that_was_never_settled_counts_in_full_and_processes_share_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    killed, other = Ledger(path, None, 10.0), Ledger(path, None, 10.0)
    assert killed.book("a", 4.0)
    ticket = other.book("b", 5.0)
    assert ticket is not None and other.held == 9.0 and other.book("c", 2.0) is None  # it may fit when b is settled
    other.settle(ticket, 1.0)
    assert other.book("c", 5.0) is not None
    with path.open("a") as file:
        file.write('{"book": "torn')
    resumed = Ledger(path, None, 10.0)
    assert (resumed.requests, resumed.spent, resumed.held) == (3, 1.0, 9.0)
    with pytest.raises(SpendingLimit, match="10"):
        resumed.book("d", 0.5)
    assert path.read_bytes().endswith(b"}\n")


def test_what_was_answered_before_a_kill_is_given_again_and_only_to_the_same_request(tmp_path: Path) -> None:
    def ids(body: dict[str, Any]) -> dict[str, Any]:
        content = [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
        more = {"token_ids": [7], "logprobs": {"content": content}, "prompt_token_ids": [1, 2]}
        return completion(body, "one", "length", **more)

    ledger = tmp_path / "l.jsonl"
    with talking(Server(ids), ledger=ledger, token_ids=True) as (server, backend):
        backend.submit([prompt(number) for number in range(3)])
        first = answers(backend, 3)
    with talking(Server(ids), ledger=ledger, token_ids=True) as (server, backend):
        backend.submit([prompt(0), prompt(1), replace(prompt(2), seed=99)])
        assert answers(backend, 3) == first and first[0].logprobs == (-0.5,) and first[0].finish == "length"
        assert [body["seed"] for body in server.asked] == [99]
    ledger.write_text(ledger.read_text().replace('"finish": "length", "thought"', '"finish": "lost", "thought"'))
    with talking(Server(ids), ledger=ledger, token_ids=True) as (_, backend):
        backend.submit([prompt(0)])
        with pytest.raises(InputError, match=r"the ledger's answer to m0/a\.1 cannot be read: finish is 'lost'"):
            answers(backend, 1)


# --- keys, and models that it cannot play ----------------------------------------------------------------------------


def test_a_key_goes_to_its_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, sent in (({"key_env": "SERVER_KEY"}, KEY), ({"key_env": None}, "none")):
        with talking(**settings) as (server, backend):
            backend.submit([prompt()])
            answers(backend, 1)
            assert server.headers[0]["authorization"] == f"Bearer {sent}"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        OpenAIBackend()


def test_it_plays_served_models_and_no_folders() -> None:
    assert Served("gpt").create(Path(), (), 0) == Snapshot("gpt", "", served="gpt")
    with talking() as (_, backend):
        with pytest.raises(InputError, match="model=served"):
            backend.load(Snapshot("v", "folder"))
        with pytest.raises(ValueError, match="loaded are"):
            backend.submit([prompt(policy="other")])
