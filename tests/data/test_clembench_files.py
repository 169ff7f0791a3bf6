"""clembench's results folder: written from stored matches, its table, and rows read back."""

import importlib.util
import json
import math
import re
import sys
import tracemalloc
from pathlib import Path

import pytest
from parley.data.episode import Episode
from parley.data.formats import clembench, conversations, messages
from parley.data.formats.clembench import Scored
from parley.games.clembench import Clembench
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from parley.system.files import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import show_import

GAMES = str(Path(__file__).parents[1] / "fixtures" / "clembench")
needs_clemcore = pytest.mark.skipif(
    not (importlib.util.find_spec("clemcore") and importlib.util.find_spec("greenlet")), reason="needs make clembench"
)


def talk(request, own, persona):
    """Plays well, mostly."""
    number = next(iter(re.findall(r"\d+", request.messages[-1].content)), "1")
    said = {"guest": own.choice(["yes", "no"]), "teller": f"NUMBER: {number}", "hearer": f"ANSWER: {number}"}
    return said[request.seat] if own.random() < 0.8 else own.choice(["hm", "ANSWER: 99", "NUMBER: 99"])


def played(name: str, k: int = 1) -> tuple[Clembench, list[Episode]]:
    game, episodes = Clembench(name, GAMES), list[Episode]()
    every = [scenario for split in ("train", "validation", "test") for scenario in game.scenarios(split)]
    Arena(game, {"talk": ScriptedPlayer(talk, "talk")}).play(
        self_play(game, every, "talk", 0, "play", k), episodes.append
    )
    return game, [Episode.from_json(json.loads(json.dumps(each.to_json()))) for each in episodes]


@needs_clemcore
@pytest.mark.parametrize("name", ["numbers", "asked"])
def test_a_folder_is_written_from_the_record_alone(name, tmp_path):
    game, episodes = played(name)
    scored = clembench.write(tmp_path, "talk", ((game, each) for each in episodes), "instances")
    assert len(scored) == len(episodes) and {each.result.outcome for each in episodes} >= {"success", "aborted"}
    for episode, each in zip(episodes, scored, strict=True):
        assert (each.scores["Aborted"] == 1) == (episode.result.outcome == "aborted")
        data = episode.scenario.data
        folder = tmp_path / "talk" / name / data["experiment"] / f"instance_{int(data['game_id']):05d}"
        files = {file.name for file in folder.iterdir()}
        assert {"instance.json", "interactions.json", "scores.json", "completed.json"} < files
        asked = json.loads((folder / f"player_{2 if name == 'asked' else 1}.requests.json").read_text())
        assert len(asked["calls"]) == sum(turn.seat in ("guest", "teller") for turn in episode.turns)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    clembench.write(tmp_path, "talk", ((game, each) for each in episodes), "instances")
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.json")}


@needs_clemcore
def test_several_matches_of_an_instance_are_episodes_or_epochs(tmp_path):
    game, episodes = played("asked", 2)
    pairs = [(game, each) for each in episodes]
    with pytest.raises(InputError, match="was played twice: choose the layout episodes or epochs"):
        clembench.write(tmp_path / "a", "talk", pairs, "instances")
    clembench.write(tmp_path / "b", "talk", pairs, "episodes")
    clembench.write(tmp_path / "c", "talk", pairs, "epochs")
    assert len(list((tmp_path / "b" / "talk" / "asked" / "plain").glob("episode_*"))) == 18
    assert {file.name for file in (tmp_path / "c" / "talk").iterdir() if file.is_dir()} == {
        "epoch_00001",
        "epoch_00002",
    }


@needs_clemcore
@pytest.mark.parametrize("name", ["numbers", "asked"])
def test_rows_read_back_are_the_views_without_questions_aside(name, tmp_path):
    from parley.data.replay import replay

    game, episodes = played(name)
    clembench.write(tmp_path / "results", "talk", ((game, each) for each in episodes), "instances")
    rows = dict(clembench.read(tmp_path / "results"))
    views = {
        tuple((message.role, message.content) for message in view)
        for each in episodes
        for view in replay(game, each).views.values()
    }
    assert {tuple((message.role, message.content) for message in row.messages) for row in rows.values()} == views
    assert all(
        {"game", "experiment", "task_id", "player_name", "game_role", "model", "outcome"} == row.meta.keys()
        for row in rows.values()
    )
    broken = [row for row in rows.values() if row.rejected]
    assert len(broken) == sum(each.result.outcome == "aborted" for each in episodes)
    messages.write(tmp_path / "rows.jsonl", rows.values())
    assert len(list(conversations.read(tmp_path / "rows.jsonl", "playpen"))) == len(rows)


def test_the_table_is_rounded_as_clem_eval_does():
    """A slow reference: percentages and means by hand."""
    rows = [
        Scored("a", "e", "0", {"Aborted": 1, "Main Score": math.nan}),
        Scored("a", "e", "0", {"Aborted": 0, "Main Score": 100}),
        Scored("a", "f", "0", {"Aborted": 0, "Main Score": 100 / 3}),
        Scored("b", "e", "0", {"Aborted": 1, "Main Score": math.nan}),
    ]
    table = clembench.table(rows)
    assert table["a, % Played"] == 66.67 and table["a, Quality Score"] == 66.67 and table["b, % Played"] == 0.0
    assert math.isnan(table["b, Quality Score"])
    assert (table["all, Average % Played"], table["all, Average Quality Score"]) == (33.34, 66.67)
    assert table["-, clemscore"] == round(0.3334 * 66.67, 2)


def test_the_table_is_written_as_csv_and_html(tmp_path):
    clembench.write_table(tmp_path, "<me>", {"-, clemscore": 1.5, "a, Quality Score": math.nan})
    assert (tmp_path / "results.csv").read_text() == ',"-, clemscore","a, Quality Score"\n<me>,1.5,\n'
    assert "&lt;me&gt;" in (tmp_path / "results.html").read_text()


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(InputError, match=r"holds no interactions\.json"):
        list(clembench.read(tmp_path))
    (tmp_path / "interactions.json").write_text('{"meta": {}, "turns": [], "players": {"Player 1": {}}}')
    with pytest.raises(InputError, match="is no record of clembench"):
        list(clembench.read(tmp_path))


def test_ten_times_the_matches_of_a_folder_take_hardly_more_memory(tmp_path):
    """A matter of names: `benchmarks/show_import.py` reads 10,000 matches."""

    def peak(count):
        folder = tmp_path / str(count)
        show_import.made(folder / "results", count)
        tracemalloc.start()
        try:
            assert (
                messages.write(folder / "rows.jsonl", (log for _, log in clembench.read(folder / "results"))) == count
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(20), peak(200)
    assert large - small < 0.1 * (tmp_path / "200/rows.jsonl").stat().st_size
    ids = [name for name, _ in clembench.read(tmp_path / "200/results")]
    assert ids == sorted(ids) and len({*ids}) == 200
