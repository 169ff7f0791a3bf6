"""Sittings: matches that lost a player are played again, or given up; weights change between two rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.games.deal import Deal
from parley.models.load import load_model, load_tokenizer
from parley.models.snapshot import Snapshot, save
from parley.models.tiny import Tiny
from parley.play.arena import Report, TooManyFailures
from parley.play.pairing import Seatings, both_seatings, self_play
from parley.play.player import Completion, Sampling
from parley.play.seats import Seats
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
    Seats(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert {episode.id for episode in EpisodeStore(tmp_path / "s", shard=None).read()} == {
        seating.match for seating in seatings
    }
    failures = list(read_jsonl(tmp_path / "s/failures.jsonl"))
    assert len(failures) == 3 and {failure["reason"] for failure in failures} == {"the server is gone"}


def test_a_player_that_is_always_lost_stops_the_run_and_loses_nothing(tmp_path: Path, snapshot: Snapshot) -> None:
    seatings = list(self_play(GAME, GAME.scenarios("train")[:12], "learner", 0, "s"))
    Flaky.losses = 0
    Seats(GAME, Flaky, 8).play(tmp_path / "s", seatings[:6], SAMPLING, {"learner": snapshot}, quiet)
    Flaky.losses = 10**9
    with pytest.raises(TooManyFailures, match="server is gone"):
        Seats(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert len(EpisodeStore(tmp_path / "s", shard=None).ids()) == 6
    Flaky.losses = 0
    Seats(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {"learner": snapshot}, quiet)
    assert len(EpisodeStore(tmp_path / "s", shard=None).ids()) == 12


def test_an_unknown_name_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    seatings = self_play(GAME, GAME.scenarios("train")[:1], "nobody", 0, "s")
    with pytest.raises(KeyError, match="nobody"):
        Seats(GAME, Flaky, 8).play(tmp_path / "s", seatings, SAMPLING, {}, quiet)


def test_a_plan_is_made_anew_and_an_iterator_is_kept(tmp_path: Path) -> None:
    """What is owed is played and nothing else, whatever the plan is made of."""
    plan = self_play(GAME, GAME.scenarios("train")[:9], "fair", 0, "s", 2)
    assert list(plan) == list(plan) and len(list(plan)) == 18
    Seats(GAME, Flaky, 4).play(tmp_path / "s", islice(plan, 3, 7), SAMPLING, {}, quiet)
    first = list(EpisodeStore(tmp_path / "s", shard=None).read())
    assert {each.id for each in first} == {seating.match for seating in list(plan)[3:7]}
    played: list[int] = []

    @contextmanager
    def told(matches: int, person: bool) -> Iterator:
        played.append(matches)
        yield lambda report: None

    for _ in range(2):
        Seats(GAME, Flaky, 4).play(tmp_path / "s", plan, SAMPLING, {}, told)
    store = EpisodeStore(tmp_path / "s", shard=None)
    assert played == [14] and list(store.read())[:4] == first
    assert [each.id for each in store.read(ordered=True)] == sorted(seating.match for seating in plan)


# --- sittings --------------------------------------------------------------------------------------------------------


def moved(snapshot: Snapshot, seed: int) -> dict[str, torch.Tensor]:
    """The snapshot's weights after a step of training."""
    draw = torch.Generator().manual_seed(seed)
    state = dict(load_model(snapshot.path).named_parameters())
    return {name: tensor.detach() + 0.3 * torch.randn(tensor.shape, generator=draw) for name, tensor in state.items()}


def sampled(folder: Path) -> dict[str, tuple[tuple[int, ...], float]]:
    """Every sampled id of each match, and the sum of their log-probs."""
    found = {}
    for episode in EpisodeStore(folder, shard=None).read():
        calls = [turn.call for turn in episode.turns if turn.call]
        ids = tuple(chain.from_iterable(call.sampled_ids for call in calls))
        found[episode.id] = ids, pytest.approx(sum(chain.from_iterable(call.logprobs for call in calls)), abs=1e-5)
    return found


def test_a_sitting_plays_rounds_with_weights_as_they_are_trained(tmp_path: Path, snapshot: Snapshot) -> None:
    """Each round is what a backend of its own plays that has loaded these weights from a folder; `start` stays what it
    was, though it sat down with the same snapshot."""
    Flaky.losses = 0
    built: list[HFBackend] = []

    def build() -> HFBackend:
        built.append(HFBackend())
        return built[-1]

    scenarios = GAME.scenarios("train")[:5]
    plans = [list(both_seatings(GAME, scenarios, "learner", "start", n, f"r{n}")) for n in range(3)]
    seats = Seats(GAME, build, 8)
    with seats.open(SAMPLING, {"learner": snapshot, "start": snapshot}) as sitting:
        for number, plan in enumerate(plans):
            if number:
                sitting.update("learner", f"{snapshot.version}+r{number}", moved(snapshot, number).items())
            sitting.play(tmp_path / f"r{number}", plan, quiet)
    assert len(built) == 1 and not built[0]._pools
    for number, plan in enumerate(plans):
        model, who = load_model(snapshot.path), {"learner": snapshot, "start": snapshot}
        if number:
            model.load_state_dict(moved(snapshot, number), strict=False)
            who["learner"] = save(model, load_tokenizer(snapshot.path), tmp_path / f"s{number}", "saved")
        Seats(GAME, HFBackend, 8).play(tmp_path / f"fresh{number}", plan, SAMPLING, who, quiet)
        assert sampled(tmp_path / f"r{number}") == sampled(tmp_path / f"fresh{number}")
        versions = {"learner": f"{snapshot.version}+r{number}" if number else snapshot.version}
        for episode in EpisodeStore(tmp_path / f"r{number}", shard=None).read():
            for seat, version in episode.policies.items():
                assert version in ("", versions.get(episode.players[seat], snapshot.version))


def test_whoever_has_not_sat_yet_can_be_updated(tmp_path: Path, snapshot: Snapshot) -> None:
    """As after a resume, when the rounds before are stored: nothing was played in this process."""
    plan = list(self_play(GAME, GAME.scenarios("train")[:3], "learner", 0, "s"))
    played = []
    for early in (True, False):
        with Seats(GAME, HFBackend, 8).open(SAMPLING, {"learner": snapshot}) as sitting:
            if not early:
                sitting.play(tmp_path / "other", plan, quiet)
            sitting.update("learner", "new", moved(snapshot, 1).items())
            sitting.play(tmp_path / f"{early}", plan, quiet)
        played.append(sampled(tmp_path / f"{early}"))
    assert played[0] == played[1] != sampled(tmp_path / "other")


def test_nobody_sits_down_for_what_is_stored(tmp_path: Path, snapshot: Snapshot) -> None:
    plan = list(self_play(GAME, GAME.scenarios("train")[:3], "learner", 0, "s"))
    Seats(GAME, HFBackend, 8).play(tmp_path / "s", plan, SAMPLING, {"learner": snapshot}, quiet)

    def build() -> HFBackend:
        raise AssertionError("a backend is built")

    Seats(GAME, build, 8).play(tmp_path / "s", plan, SAMPLING, {"learner": snapshot}, quiet)


@pytest.mark.parametrize("odd", [False, True])
def test_ranks_that_share_an_engine_play_the_same_and_the_first_of_them_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: bool
) -> None:
    """Four ranks in two groups, one after the other; `odd`: what rank 3 hears differs."""
    from parley.play import seats

    script = next(iter(GAME.scripts()))
    plan = list(self_play(GAME, GAME.scenarios("train")[:12], script, 0, "s"))
    told = list[object]()

    def gathered(own: object) -> list[object]:
        told.append(own)
        return [*told, *[own] * (len(told) % 2)]

    monkeypatch.setattr(seats.ranks, "world", lambda: 4)
    monkeypatch.setattr(seats.ranks, "gathered", gathered)
    for rank in range(4):
        monkeypatch.setattr(seats.ranks, "rank", lambda rank=rank: rank)
        mine = [replace(each, seed=each.seed + (odd and rank == 3)) for each in plan]
        with EpisodeStore(tmp_path / "s", rank) as store, Seats(GAME, Flaky, 8, together=2).open(SAMPLING, {}) as sat:
            if odd and rank == 3:
                with pytest.raises(RuntimeError, match="ranks 2 to 3 share an engine and played different matches"):
                    sat._play(Seatings(lambda mine=mine: iter(mine)), 12, store, quiet)
            else:
                sat._play(Seatings(lambda mine=mine: iter(mine)), 12, store, quiet)
    lines = [len(list(read_jsonl(tmp_path / f"s/{rank}.jsonl"))) for rank in range(4)]
    assert lines == [6, 0, 6, 0]
    assert EpisodeStore(tmp_path / "s", shard=None).ids() == {each.match for each in plan}
