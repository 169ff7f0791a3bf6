"""TextArena's own environments: the kit, golden transcripts, wrong names. Skipped where TextArena is not installed."""

import json
import random

import pytest

pytest.importorskip("textarena")

from parley.data.episode import Episode
from parley.data.replay import replay
from parley.games import conformance
from parley.games.base import Reply
from parley.games.textarena import TextArena
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from parley.system.files import InputError

PLAYED = {
    "TicTacToe-v0": {},
    "KuhnPoker-v0-short": {},
    "LiarsDice-v0-small": {"players": 3},
    "Mastermind-v0": {},
    "PigDice-v0-short": {"max_requests": 40},
}


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("env", PLAYED)
def test_contract(env, check):
    conformance.CHECKS[check](TextArena(env, **PLAYED[env]), matches=8, seed=0)


def played(game, matches, in_flight):
    episodes: list[Episode] = []
    players = {name: ScriptedPlayer(script, name) for name, script in game.scripts().items()}
    plan = self_play(game, game.scenarios("train")[:matches], "random", 0, "iter_001/play")
    Arena(game, players, in_flight).play(plan, episodes.append)
    return sorted(episodes, key=lambda episode: episode.id)


@pytest.mark.parametrize("env", PLAYED)
def test_matches_in_flight_are_the_same_one_by_one_and_in_replay(env):
    game = TextArena(env, **PLAYED[env])
    before = random.getstate()
    together, alone = played(game, 12, 12), played(game, 12, 1)
    assert together == alone
    for episode in together:
        stored = Episode.from_json(json.loads(json.dumps(episode.to_json())))
        assert replay(TextArena(env, **PLAYED[env]), stored).result == episode.result
    assert random.getstate() == before


def texts(game, *replies):
    match = game.match(game.scenarios("train")[0], 0)
    requests = match.start()
    asked = []
    for text in replies:
        asked += requests
        requests = match.step([Reply(requests[0].id, text)])
    return asked, requests, match


def test_golden_tictactoe():
    asked, rest, match = texts(TextArena("TicTacToe-v0"), "[0]", "[3]", "[1]", "[3]", "[4]", "[2]")
    assert [each.seat for each in asked] == ["player_0", "player_1", "player_0", "player_1", "player_1", "player_0"]
    assert asked[4].kind == "retry" and "invalid move" in asked[4].messages[-1].content.lower()
    assert asked[0].observation["legal"] == [f"[{cell}]" for cell in range(9)]
    assert asked[5].observation["legal"] == ["[2]", "[5]", "[6]", "[7]", "[8]"]
    assert not rest and match.result().returns == {"player_0": 1.0, "player_1": -1.0}
    assert match.result().marks == {"player_1.2": {"retry": "invalid"}}


def test_two_moves_of_one_seat_are_no_retry():
    asked, rest, _ = texts(TextArena("PigDice-v0"), "[roll]", "[hold]", "[hold]")
    assert {request.kind for request in [*asked, *rest]} == {"act"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"env": "TicTacTo-v0"}, "game.env=TicTacTo-v0 is no environment of TextArena; did you mean TicTacToe-v0?"),
        ({"env": "TicTacToe-v0", "players": 3}, "game.players is 3: TicTacToe-v0 takes 2"),
        ({"env": "Debate-v0"}, "game.env=Debate-v0 cannot be played: it asks a language model of its own"),
    ],
)
def test_wrong_words_are_told_before_anything_is_played(words, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        TextArena(**words)
