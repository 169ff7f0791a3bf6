"""The table: matches that lost a player are played again, and given up where that does not help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from parley.backends.hf import HFBackend
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.games.deal import Deal
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.arena import Report, TooManyFailures
from parley.play.pairing import self_play
from parley.play.player import Completion, Sampling
from parley.play.seats import Table
from parley.system.files import read_jsonl

GAME = Deal(max_actions=4, retries=0)
SAMPLING = Sampling(max_tokens=4)


class Flaky(HFBackend):
    """Loses the first `losses` replies, as a server that dies does."""

    losses = 0

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        done = super().poll(wait_s)
        for at, each in enumerate(done):
            if Flaky.losses:
                Flaky.losses -= 1
                done[at] = replace(each, finish="error", text="the server is gone")
        return done


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    words = "[message] [propose] hello books hats balls 0 1 2 3 4 5 6 7 8 9 10 i take you get deal they proposed error"
    return Tiny(width=32, heads=2, layers=1, mlp=64).create(
        tmp_path_factory.mktemp("m") / "tiny", [[Message("user", words)]], 0
    )


@contextmanager
def quiet(matches: int, person: bool) -> Iterator:
    def ignore(report: Report) -> None:
        pass

    yield ignore


def test_lost_matches_are_played_again_and_the_reasons_kept(tmp_path: Path, snapshot: Snapshot) -> None:
    Flaky.losses = 3
    seatings = list(self_play(GAME, GAME.scenarios("train")[:40], "learner", 0, "s"))
    Table(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert {episode.id for episode in EpisodeStore(tmp_path / "s", shard=None).read()} == {
        seating.match for seating in seatings
    }
    failures = list(read_jsonl(tmp_path / "s/failures.jsonl"))
    assert len(failures) == 3 and {failure["reason"] for failure in failures} == {"the server is gone"}


def test_a_player_that_is_always_lost_stops_the_run_and_loses_nothing(tmp_path: Path, snapshot: Snapshot) -> None:
    seatings = list(self_play(GAME, GAME.scenarios("train")[:12], "learner", 0, "s"))
    Flaky.losses = 0
    Table(GAME, Flaky, 8).play(tmp_path / "s", seatings[:6], SAMPLING, {"learner": snapshot}, quiet)
    Flaky.losses = 10**9
    with pytest.raises(TooManyFailures, match="server is gone"):
        Table(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert len(EpisodeStore(tmp_path / "s", shard=None).ids()) == 6
    Flaky.losses = 0
    Table(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert len(EpisodeStore(tmp_path / "s", shard=None).ids()) == 12


def test_an_unknown_name_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    seatings = self_play(GAME, GAME.scenarios("train")[:1], "nobody", 0, "s")
    with pytest.raises(KeyError, match="nobody"):
        Table(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {}, quiet)


def test_a_plan_is_made_anew_and_an_iterator_is_kept(tmp_path: Path) -> None:
    """What is owed is played and nothing else, whatever the plan is made of."""
    plan = self_play(GAME, GAME.scenarios("train")[:9], "fair", 0, "s", 2)
    assert list(plan) == list(plan) and len(list(plan)) == 18
    Table(GAME, Flaky, 4).play(tmp_path / "s", islice(plan, 3, 7), SAMPLING, {}, quiet)
    first = list(EpisodeStore(tmp_path / "s", shard=None).read())
    assert {each.id for each in first} == {seating.match for seating in list(plan)[3:7]}
    played: list[int] = []

    @contextmanager
    def told(matches: int, person: bool) -> Iterator:
        played.append(matches)
        yield lambda report: None

    for _ in range(2):
        Table(GAME, Flaky, 4).play(tmp_path / "s", plan, SAMPLING, {}, told)
    store = EpisodeStore(tmp_path / "s", shard=None)
    assert played == [14] and list(store.read())[:4] == first
    assert [each.id for each in store.read(ordered=True)] == sorted(seating.match for seating in plan)
