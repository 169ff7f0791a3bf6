"""Matches with players behind a server: none is lost or doubled whatever the server does, and its tokens can be trained
on."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import pytest
from parley.backends.hf import HFBackend
from parley.backends.openai import OpenAIBackend, served
from parley.credit import FilteredBC, NothingKept, logs
from parley.data.episode import Episode, streams
from parley.data.replay import replay
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.games.deal import Deal
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.arena import Report, TooManyFailures
from parley.play.pairing import both_seatings, self_play
from parley.play.player import Prompt, Sampling
from parley.play.seats import Opponent, Seats
from parley.system.files import read_jsonl
from parley.system.spending import SpendingLimit
from tables import Bids

from openai_server import KEY, REAL, Server, completion, model_name

pytest.importorskip("openai")
MODEL = served(model_name())
SAMPLING = Sampling(max_tokens=8)
FAULTS = ["429 0.05", "500", "half", "json", "shape", "503", "hang 1", "429"]


@contextmanager
def quiet(matches: int, person: bool) -> Iterator:
    def ignore(report: Report) -> None:
        pass

    yield ignore


def backend(server: Server, **settings: Any) -> partial[OpenAIBackend]:
    seconds = 20.0 if REAL else 0.8
    return partial(
        OpenAIBackend,
        **{"url": server.url, "key_env": "SERVER_KEY", "backoff_s": 0.01, "timeout_s": seconds, **settings},
    )


def episodes(folder: Path) -> list[Episode]:
    return list(EpisodeStore(folder, shard=None).read(ordered=True))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)


def test_no_match_is_lost_or_doubled_whatever_the_server_does(tmp_path: Path) -> None:
    game, who = Bids(), {"learner": MODEL}
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s", k=3))
    for name, faults in (("calm", []), ("rough", Random(1).choices(FAULTS, k=40))):
        server = Server(faults=faults)
        Seats(game, backend(server, ledger=tmp_path / name / "spending.jsonl", retries=12), 16).play(
            tmp_path / name, seatings, SAMPLING, who, quiet
        )
        server.close()
        assert server.faults == [] and not (tmp_path / name / "failures.jsonl").exists()
    calm, rough = episodes(tmp_path / "calm"), episodes(tmp_path / "rough")
    stored = [json.loads(line)["id"] for line in (tmp_path / "rough/0.jsonl").read_text().splitlines()]
    assert sorted(stored) == sorted(seating.match for seating in seatings) == [episode.id for episode in calm]
    assert REAL or rough == calm  # to the last word: the seeds decide
    assert {version for episode in rough for version in episode.policies.values() if version} == {MODEL.version}
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY not in file.read_text(), file


def test_a_server_that_is_gone_owes_its_matches_and_they_are_played_when_it_is_back(tmp_path: Path) -> None:
    game, who = Bids(), {"learner": MODEL}
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s", k=2))
    server = Server(faults=["500"] * 10_000)
    with pytest.raises(TooManyFailures, match=r"10 of 24 matches lost a player.*they stay owed"):
        Seats(game, backend(server, retries=1), 24).play(tmp_path, seatings, SAMPLING, who, quiet)
    assert episodes(tmp_path) == []  # no low score stands for what was never played
    server.faults.clear()
    Seats(game, backend(server), 24).play(tmp_path, seatings, SAMPLING, who, quiet)
    assert len(episodes(tmp_path)) == len(seatings)
    server.close()


def dies(folder: Path, url: str, answers: int) -> None:
    """Plays on until so many answers have come, and is killed when the last of them is paid for and not yet recorded
    (the others are not recorded either, or just so)."""
    left = [answers]

    def put(self: OpenAIBackend, *done: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        handed_on(self, *done)

    handed_on, OpenAIBackend._put = OpenAIBackend._put, put  # type: ignore[method-assign]
    judged(folder, url)


def judged(folder: Path, url: str) -> None:
    """Six matches in which a served model sits, two requests at a time."""
    settings = {"ledger": folder / "ledger.jsonl", "price_completion": 1.0, "concurrency": 2, "timeout_s": 60.0}
    os.environ["SERVER_KEY"] = KEY
    seats = Seats(Bids(), partial(OpenAIBackend, url=url, key_env="SERVER_KEY", **settings), 4)
    seatings = self_play(Bids(), Bids().scenarios("train")[:6], "learner", 0, "x")
    seats.play(folder / "play", seatings, SAMPLING, {"learner": MODEL}, quiet)


@pytest.mark.skipif(bool(REAL), reason="counts the requests of the fake server")
def test_an_answer_that_was_paid_for_and_not_recorded_is_not_paid_for_again(tmp_path: Path) -> None:
    with closing(Server()) as server:
        for answers in (1, 2, 1):
            process = get_context("spawn").Process(target=dies, args=(tmp_path, server.url, answers))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        before = answered(tmp_path / "ledger.jsonl")
        assert len(before) >= 2
        asked = len(server.asked)
        judged(tmp_path, server.url)
    now = answered(tmp_path / "ledger.jsonl")
    assert set(now.values()) == {1} and now.keys() > before.keys()
    assert len(server.asked) - asked == len(now) - len(before)
    told = {f"{each.id}/{turn.request}": turn.text for each in episodes(tmp_path / "play") for turn in each.turns}
    assert told.keys() == now.keys()


def answered(ledger: Path) -> Counter[str]:
    """How often each request was answered, as the ledger has it."""
    lines = list(read_jsonl(ledger))
    names = {line["book"]: line["for"] for line in lines if "book" in line}
    return Counter(names[line["settle"]] for line in lines if "answer" in line)


def test_a_few_lost_matches_are_played_again(tmp_path: Path) -> None:
    game = Bids()
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s", k=4))
    server = Server(faults=["500"] * 4)
    # one request after the other: the first four are of four matches
    Seats(game, backend(server, retries=0, concurrency=1), 24).play(
        tmp_path, seatings, SAMPLING, {"learner": MODEL}, quiet
    )
    assert len(episodes(tmp_path)) == len(seatings) and len(list(read_jsonl(tmp_path / "failures.jsonl"))) == 4
    server.close()


def test_a_ceiling_stops_the_run_and_keeps_what_is_finished(tmp_path: Path) -> None:
    game = Bids()
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s", k=4))
    server, ledger = Server(), tmp_path / "spending.jsonl"
    settings = {"max_requests": 100, "ledger": ledger, "retries": 0}
    with pytest.raises(SpendingLimit, match="ceiling of 100 requests"):
        Seats(game, backend(server, **settings), 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": MODEL}, quiet)
    done = len(episodes(tmp_path / "s"))
    assert len(server.asked) == 100 and 0 < done < len(seatings)
    settings["max_requests"] = None
    Seats(game, backend(server, **settings), 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": MODEL}, quiet)
    found = episodes(tmp_path / "s")
    assert len(found) == len(seatings)
    turns = sum(len(episode.turns) for episode in found)
    assert turns <= len(server.asked) <= turns + 8 * 7  # only what was in flight was asked again
    server.close()


# --- mixed tables ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    words = "[message] [propose] hello books hats balls 0 1 2 3 4 5 6 7 8 9 10 i take you get deal they proposed error"
    return Tiny(width=64, heads=2, layers=1, mlp=64).create(
        tmp_path_factory.mktemp("m") / "tiny", [[Message("user", words)]], 0
    )


def test_a_learner_here_a_teacher_on_a_server_and_a_frozen_policy_sit_at_one_table(
    tmp_path: Path, tiny: Snapshot
) -> None:
    game, server = Deal(max_actions=6, retries=0), Server(lambda body: completion(body, "[message] i take 1 books"))
    opponents = {"teacher": Opponent(MODEL, backend(server)), "frozen": Opponent(tiny)}
    table = Seats(game, HFBackend, 16, opponents)
    for other in opponents:
        seatings = list(both_seatings(game, game.scenarios("train")[:6], "learner", other, 0, other))
        table.play(tmp_path / other, seatings, SAMPLING, {"learner": tiny}, quiet)
        played = episodes(tmp_path / other)
        assert {tuple(sorted(episode.players.items())) for episode in played} == {
            (("first", "learner"), ("second", other)), (("first", other), ("second", "learner"))
        }  # fmt: skip
        versions = {"learner": tiny.version, **{name: each.snapshot.version for name, each in opponents.items()}}
        for episode in played:
            assert all(episode.policies[seat] in ("", versions[name]) for seat, name in episode.players.items())
            for turn in episode.turns:
                assert (turn.call is None) == (episode.players[turn.seat] == "teacher") or turn.finish == "context"
            replay(game, episode)
        mine = {(log.episode.id, log.seat) for log in logs(played, "learner")}
        assert {seat for _, seat in mine} == set(
            game.roles
        ) or other == "frozen"  # whose first words are illegal: nobody answers it
        assert all(episode.players[seat] == "learner" for episode in played for id, seat in mine if id == episode.id)
    server.close()


# --- token ids -------------------------------------------------------------------------------------------------------


class TinyServer:
    """What vLLM answers: a real model behind the server, with the ids it saw and sampled and their log-probs."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.backend, self.renderer, self.version = HFBackend(), Renderer.load(snapshot.path), snapshot.version
        self.backend.load(snapshot)
        self.count = 0

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = tuple(Message(each["role"], each["content"]) for each in body["messages"])
        sampling = Sampling(body["temperature"], body["top_p"], body.get("top_k", 0), body["max_tokens"])
        self.count += 1
        prompt = Prompt(
            f"{self.count}/a", f"{self.count}", messages, body["seed"], sampling=sampling, policy=self.version
        )
        ids = self.renderer.encode(messages)
        self.backend.submit(
            [Prompt(**{**{name: getattr(prompt, name) for name in Prompt.__slots__}, "token_ids": ids})]
        )
        done: list[Any] = []
        while not done:
            done = self.backend.poll()
        assert body["logprobs"] and body["return_token_ids"]
        content = [{"token": "x", "logprob": each, "bytes": None, "top_logprobs": []} for each in done[0].logprobs]
        more = {"token_ids": list(done[0].token_ids), "logprobs": {"content": content}, "prompt_token_ids": list(ids)}
        return completion(body, done[0].text, done[0].finish, **more)


@pytest.mark.skipif(bool(REAL), reason="the weights behind the server must be here, too")
def test_a_servers_token_ids_can_be_trained_on(tmp_path: Path, tiny: Snapshot) -> None:
    from parley.learners.likelihood import mean_logprob

    class Cpu:
        accelerator, devices, nodes, strategy, precision, threads = "cpu", 1, 1, "single", "32-true", 1
        micro_tokens, row_tokens, head_chunk, activation_checkpointing = 4096, 512, 64, False

    game, server = Bids(), Server(TinyServer(tiny))
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s"))
    build = backend(server, token_ids=True, concurrency=1, timeout_s=30.0)
    Seats(game, build, 8).play(tmp_path, seatings, SAMPLING, {"learner": MODEL}, quiet)
    server.close()
    played = episodes(tmp_path)
    renderer = Renderer.load(tiny.path)
    for episode in played:
        views = replay(game, episode).views
        for turn in episode.turns:
            assert turn.call is not None and renderer.text(turn.call.sampled_ids) == turn.text
        for seat in game.roles:
            for stream in streams(episode, seat):
                assert stream.token_ids[: len(renderer.encode(views[seat][:2]))] == renderer.encode(views[seat][:2])
    given = FilteredBC("all")(played, "learner")
    assert all(verdict.why == "kept" for verdict in given.table if verdict.kept)
    said = [value for sample in given.on_policy() for value in sample.logprobs or ()]
    assert len(said) == sum(each.end - each.start for sample in given.samples for each in sample.utterances) > 100
    assert mean_logprob(given.samples, tiny, Cpu()) == pytest.approx(sum(said) / len(said), abs=1e-5)


def test_without_ids_a_log_is_kept_as_text_and_said_to_be_no_more(tmp_path: Path) -> None:
    game, server = Bids(), Server()
    seatings = list(self_play(game, game.scenarios(), "learner", 5, "s"))
    Seats(game, backend(server), 8).play(tmp_path, seatings, SAMPLING, {"learner": MODEL}, quiet)
    server.close()
    given = FilteredBC("all")(episodes(tmp_path), "learner")
    assert given.samples == [] and given.kept > 0
    assert {verdict.why for verdict in given.table if verdict.kept} == {
        "kept, without token ids (not trainable on-policy)"
    }
    with pytest.raises(NothingKept, match=r"no token ids.*backend\.token_ids=true.*learner=openai"):
        given.on_policy()
