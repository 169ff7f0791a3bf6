"""Fine-tuning elsewhere: what is sent, what comes back, and that nothing is asked for twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parley.backends.openai import served
from parley.data.sample import Demonstration
from parley.games.base import Message
from parley.learners import hosted
from parley.learners.hosted import HostedLearner
from parley.models.snapshot import Snapshot
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.spin import Spin
from parley.system.files import InputError
from parley.system.spending import SpendingLimit

from openai_server import KEY, Server

pytest.importorskip("openai")
BASE = served("gpt-small")
CHATS = [
    Demonstration(f"m{n}/a", (Message("system", "rules"), Message("user", "go"), Message("assistant", "no"),
    Message("user", "again"),
                              Message("assistant", f"yes {n}"), Message("user", "over")), (0.0, 0.0, 0.0, 0.0, 1.0,
                              0.0))
    for n in range(3)
]  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SERVER_KEY", KEY)
    made = Server(where="POST /v1/f")
    yield made
    made.close()


def learner(server: Server, **changes: Any) -> HostedLearner:
    settings = {
        "url": server.url,
        "key_env": "SERVER_KEY",
        "poll_s": 0.01,
        "backoff_s": 0.01,
        "timeout_s": 5.0,
        "suffix": "deal",
    }
    return HostedLearner(FilteredBC(), **{**settings, **changes})


def learn(made: HostedLearner, folder: Path, **changes: Any) -> tuple[Snapshot, dict[str, Any]]:
    return made.learn(CHATS, BASE, folder, **{"seed": 7, "name": "iter_001", **changes})


def test_the_chats_are_sent_the_job_is_watched_and_its_model_comes_back(server: Server, tmp_path: Path) -> None:
    rows: list[Any] = []
    made, metrics = learn(
        learner(server, price_training=3.0, ledger=tmp_path / "spending.jsonl"),
        tmp_path / "learn",
        progress=rows.append,
    )
    assert made == served("ft:gpt-small+")
    [job], [(name, data)] = server.jobs.values(), server.files.values()
    assert job["model"] == "gpt-small" and job["suffix"] == "deal" and job["seed"] == 7
    assert job["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": 1,
        "learning_rate_multiplier": 8.0,
    }
    assert data == (tmp_path / "learn/train.jsonl").read_bytes() and name.startswith("parley-")
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert [line["messages"][-1]["content"] for line in lines] == [
        "yes 0",
        "yes 1",
        "yes 2",
    ]  # what is heard later is left out
    assert all([each.get("weight") for each in line["messages"]] == [None, None, 0, None, None] for line in lines)
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["steps"] == 4
    assert metrics == {"samples": 3, "utterances": 3, "tokens": 1000, "cost": 0.003, "steps": 2, "loss": 0.5}
    settled = [json.loads(line) for line in (tmp_path / "spending.jsonl").read_text().splitlines()][-1]
    assert settled["cost"] == 0.003 and settled["trained_tokens"] == 1000
    asked = len(server.times)
    assert (
        learn(learner(server), tmp_path / "learn") == (made, metrics) and len(server.times) == asked
    )  # finished: nothing is asked
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("faults", [["half"], ["", "half"], ["500", "503", "half", "429", "half"], ["json", "json"]])
def test_lost_answers_never_make_a_second_file_or_job(server: Server, tmp_path: Path, faults: list[str]) -> None:
    server.faults = list(faults)
    made, _ = learn(learner(server), tmp_path)
    assert made == served("ft:gpt-small+") and (len(server.files), len(server.jobs)) == (1, 1) and server.faults == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_at_any_moment_it_goes_on_with_the_same_job(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed before or after each thing that it writes down."""
    written = hosted.write_json
    calls = 0

    def dying(path: Path, data: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == moment and moment % 2:
            raise Killed
        written(path, data)
        if calls == moment:
            raise Killed

    monkeypatch.setattr(hosted, "write_json", dying)
    made = learner(server, price_training=1.0, ledger=tmp_path / "spending.jsonl", max_cost=1.0)
    with pytest.raises(Killed):
        learn(made, tmp_path / "learn")
        raise Killed  # it was done before that moment
    monkeypatch.setattr(hosted, "write_json", written)
    assert learn(made, tmp_path / "learn")[0] == served("ft:gpt-small+")
    assert (len(server.files), len(server.jobs)) == (1, 1)


def test_killed_while_it_waits_it_waits_on(server: Server, tmp_path: Path) -> None:
    def dying(row: Any) -> None:
        raise Killed

    server.looks = 5
    with pytest.raises(Killed):
        learn(learner(server), tmp_path, progress=dying)
    assert (
        json.loads((tmp_path / "job.json").read_text())["job"] == "ftjob-1"
        and server.jobs["ftjob-1"]["status"] == "running"
    )
    assert learn(learner(server), tmp_path)[0] == served("ft:gpt-small+") and len(server.jobs) == 1


def test_what_cannot_go_on_says_why(server: Server, tmp_path: Path) -> None:
    server.ending = "failed"
    with pytest.raises(InputError, match=r"ftjob-1 as failed: the file was no good.*job\.json"):
        learn(learner(server), tmp_path / "failed")
    with pytest.raises(InputError, match="other inputs"):
        learn(learner(server, epochs=1), tmp_path / "failed")
    server.where, server.faults = "GET", ["401"]
    with pytest.raises(InputError, match="refuses") as told:
        learn(learner(server), tmp_path / "refused")
    assert KEY not in str(told.value)
    server.faults = ["500"] * 99
    with pytest.raises(InputError, match=r"does not answer.*what is done is not repeated"):
        learn(learner(server, retries=2), tmp_path / "gone")
    with pytest.raises(InputError, match="model=served"):
        learner(server).learn(CHATS, Snapshot("v", "folder"), tmp_path / "x", seed=0, name="n")
    with pytest.raises(InputError, match="message to train on"):
        learner(server).learn(
            [Demonstration("m", CHATS[0].messages, (0.0,) * 6)], BASE, tmp_path / "y", seed=0, name="n"
        )
    with pytest.raises(InputError, match="objective=filtered_bc"):
        HostedLearner(Spin())


def test_a_job_is_booked_at_its_most_before_it_is_made(server: Server, tmp_path: Path) -> None:
    size = 3 * 200  # bytes of the file, about
    with pytest.raises(SpendingLimit):
        learn(learner(server, price_training=1e6, max_cost=float(size), ledger=tmp_path / "s.jsonl"), tmp_path / "a")
    assert server.jobs == {}
    with pytest.raises(InputError, match="price_training"):
        learner(server, max_cost=1.0)


PRICED = {"price_training": 1e6, "max_cost": 1e6}  # a token costs 1
NUMBERS = {
    "nan": float("nan"), "infinite": float("inf"), "negative": -1000, "huge": 10**400, "truth": True, "words": "1000",
    "list": [1000], "nothing": 0, "missing": None, "fraction": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("told", [each for name, each in NUMBERS.items() if name not in ("truth", "words")])
def test_A2_a_services_trained_tokens_that_cannot_be_so_are_billed_at_the_most_of_the_job(
    server: Server, tmp_path: Path, told: Any
) -> None:
    looked = server._look
    server._look = lambda job: looked(job) | {"trained_tokens": told}  # type: ignore[method-assign]
    _, metrics = learn(learner(server, ledger=tmp_path / "s.jsonl", **PRICED), tmp_path / "learn")
    booked, settled = (json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert settled["cost"] == metrics["cost"] == booked["most"] > 1000 and metrics["tokens"] == 0


@pytest.mark.parametrize("told", NUMBERS.values(), ids=NUMBERS)
def test_B11_a_services_losses_and_steps_that_cannot_be_so_are_left_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    import openai_server

    sound = openai_server._event
    wrong = [{"train_loss": told}, {"step": told}, {"total_steps": told}]
    if told == 0.5:
        wrong[0] = {"train_loss": "0.5"}  # half is a loss
    elif told in (0, -1000):
        wrong = wrong[2:]

    def event(step: int) -> dict[str, Any]:
        made = sound(step)
        return made | {"data": made["data"] | (wrong.pop() if wrong else {})}

    monkeypatch.setattr(openai_server, "_event", event)
    server.looks, rows = 5, []
    _, metrics = learn(learner(server), tmp_path, progress=rows.append)
    assert metrics["steps"] == 5 and metrics["loss"] == 0.2
    assert all(type(row["steps"]) is int and 0 < row["loss"] <= 1 for row in rows)


@pytest.mark.parametrize("body", [b"null", b'{"id": 3}', b"[" * 99999])
@pytest.mark.parametrize("where", ["GET /v1/files", "POST /v1/files", "POST /v1/fine", "GET /v1/fine_tuning/jobs/f"])
def test_B11_a_services_answers_that_cannot_be_read_are_asked_for_again(
    server: Server, tmp_path: Path, where: str, body: bytes
) -> None:
    server.where, server.faults, server.raw = where, ["raw"], (200, {}, body)
    made, _ = learn(learner(server), tmp_path / "learn")
    assert made == served("ft:gpt-small+") and server.faults == [] and (len(server.files), len(server.jobs)) == (1, 1)


def test_B11_a_services_answers_are_bounded(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parley.backends import wire

    monkeypatch.setattr(wire, "MOST_BYTES", 2**18)
    server.where = "GET"
    for headers, told in (({}, "longer than 0 MiB"), ({"Content-Encoding": "gzip"}, "compressed")):
        server.faults, server.raw = ["raw"] * 2, (200, headers, b" " * 2**19)
        with pytest.raises(InputError, match=told):
            learn(learner(server, retries=1), tmp_path / "learn")
    assert all(each["accept-encoding"] == "identity" for each in server.headers)


@pytest.mark.parametrize("text", ["", "[]", '{"inputs"', '{"inputs": 3, "token": "x"}', "{}", '{"more": 1}', "\0"])
def test_B05_a_state_of_a_job_that_cannot_be_read_is_named(server: Server, tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(InputError, match=r"job\.json") as told:
        learn(learner(server), tmp_path)
    assert "\n" not in str(told.value) and server.jobs == {}


def test_a_seed_is_sent_as_31_bits(server: Server, tmp_path: Path) -> None:
    learn(learner(server), tmp_path / "learn", seed=2**31 + 7)
    assert [job["seed"] for job in server.jobs.values()] == [7]
