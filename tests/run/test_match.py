"""A snapshot loaded and a match played from Python: folders, GGUF files, hub ids, adapters, runs."""

from __future__ import annotations

import huggingface_hub.constants as hub
import parley
import pytest
from parley.data.episode import streams
from parley.games.base import Message
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.hub import missing
from parley.models.tiny import Tiny
from parley.system.files import InputError
from test_gguf import file, home  # noqa: F401  # fixtures
from test_hub import lay, tuned  # noqa: F401  # a fixture

GAME = Deal(max_actions=4, retries=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    words = [[Message("user", "books 2 hats 1 balls 2 [message] [propose] hello deal 0 1 3 4 5 6 7 8 9 10")]]
    Tiny(width=32, heads=2, layers=1, mlp=64, context=256).create(
        folder := tmp_path_factory.mktemp("m") / "m", words, 0
    )
    return folder


def test_a_snapshot_plays_a_script_and_the_match_is_the_same_again(made):
    found = parley.load_snapshot(made)
    assert found.version.endswith(snapshot.digest(made)[:12])
    first, again, other = (
        parley.play_match(GAME, {"first": found, "second": "fair"}, seed=seed, sampling=parley.Sampling(max_tokens=8))
        for seed in (0, 0, 1)
    )
    assert first == again and first.turns != other.turns
    assert first.scenario == GAME.scenarios("test")[0] and first.players == {"first": found.version, "second": "fair"}
    assert streams(first, "first")[0].token_ids and not streams(first, "second")
    told = parley.transcript(GAME, first)
    assert told.startswith("first: ") and "outcome: " in told and first.turns[0].text in told


def test_two_scripts_need_no_model():
    scenario = GAME.scenarios("train")[3]
    episode = parley.play_match(GAME, {"first": "naive", "second": "skilled"}, scenario)
    assert episode.scenario == scenario and "second: " in parley.transcript(GAME, episode)


def test_an_empty_seat_and_a_strange_script_are_told():
    with pytest.raises(ValueError, match="nobody plays second: deal has the roles first, second"):
        parley.play_match(GAME, {"first": "fair"})
    with pytest.raises(KeyError, match="fare"):
        parley.play_match(GAME, {"first": "fair", "second": "fare"})


def test_whatever_model_path_takes_is_loaded(made, file, tuned, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="hf download lab/small"):
        parley.load_snapshot("lab/small")
    assert "lab/small" in (missing("lab/small") or "") and missing(str(made)) is None
    laid = lay(made, "lab/small", tmp_path / "cache")
    assert parley.load_snapshot("lab/small").path == str(laid) and missing("lab/small") is None
    assert parley.load_snapshot(tuned).base == str(laid)  # what the adapter itself names
    assert parley.load_snapshot(tuned, base=str(made)).base == str(made) and missing(str(tuned)) is None
    assert parley.load_snapshot(file).version.startswith(file.stem) and missing(str(file)) is None
    assert "no file" in (missing(str(tmp_path / "none.gguf")) or "")
