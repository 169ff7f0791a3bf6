"""Sotopia's episodes in and out, Alpaca rows in and out, through the tasks that do it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from parley.data.episode import Episode
from parley.data.formats import alpaca, sotopia
from parley.data.formats.conversations import read as read_conversations
from parley.data.replay import replay
from parley.data.sample import Demonstration
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Message
from parley.games.social import Social, Task
from parley.system.files import InputError

from social_records import environment, write

REAL = Path(os.environ.get("PARLEY_DATA", "nowhere"))
STAGE = "iter_001/play"


@pytest.fixture
def game(tmp_path: Path) -> Social:
    return Social(str(write(tmp_path / "records")), validation=0.0, test=0.0)


def dialogue() -> dict[str, object]:
    """A dialogue with everything that the real ones have: acts, a torn reply, a turn passed over, a tail."""
    names = ["Ann Ash", "Bob Birch"]
    said = [
        ("Bob Birch", '"Hi. "Yes" I said "no""'), ("Bob Birch", "Bob Birch [action] waves\n"), ("Ann Ash", '"'),
        ("Bob Birch", 'Bob Birch [action] [action] sits,'), ("Ann Ash", '"Good day."\nTurn #8,'),
        ("Bob Birch", " Bob Birch left the conversation."),
    ]  # fmt: skip
    info = {
        "age": "29",
        "profession": "male baker",
        "pronouns": "He/him",
        "interests": "x",
        "personality": "y",
        "secrets": "z",
    }
    return {
        "episode": "E1", "model": "BC",
        "scenario": 'A fair in e2. <p viewer="environment">It rains.</p>', "names": names,
        "personal_info": {name: {"name": name, **info} for name in names},
        "social_goal": dict.fromkeys(names, "win"),
        "parsed_conversation": [{"speaker": who, "dialogue": text} for who, text in said],
    }  # fmt: skip


def log_row(game: Social) -> dict[str, object]:
    task = Task.from_json(game.scenarios("train")[0].data)
    one, other = task.names
    quiet, shown = "did nothing", [["Environment", one, "…"], ["Environment", other, "…"]]
    scores = {name: 1 for name in sotopia.DIMENSIONS}
    return {
        "pk": "L1", "environment": task.environment, "agents": [person.id for person in task.people], "tag": "t",
        "models": ["gpt-4", "a", "b"], "reasoning": "", "rewards_prompt": "", "rewards": [[1.0, scores], 0.0],
        "messages": [
            [*shown, [one, "Environment", 'said: "Hi"'], [other, "Environment", quiet]],
            [*shown, [one, "Environment", quiet], [other, "Environment", "left the conversation"]],
        ],
    }  # fmt: skip


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def through(record: sotopia.Record, game: Social) -> Episode:
    """The record as a match, stored and read again."""
    return Episode.from_json(json.loads(json.dumps(sotopia.match(record, game, STAGE).to_json())))


def test_a_dialogue_is_a_match_that_replays_and_is_written_back_as_it_was(game: Social, tmp_path: Path) -> None:
    (record,) = sotopia.read(lines(tmp_path / "d.jsonl", dialogue()), game.everything)
    episode = through(record, game)
    assert replay(game, episode).result == episode.result and episode.result.outcome == "left"
    assert [(turn.seat[-1], json.loads(turn.text)["action_type"]) for turn in episode.turns] == [
        ("1", "none"), ("2", "speak"), ("1", "none"), ("2", "action"), ("1", "none"), ("2", "action"), ("1", "speak"),
        ("2", "leave"),
    ]  # fmt: skip
    assert json.loads(episode.turns[1].text)["argument"] == 'Hi. "Yes" I said "no'
    assert episode.players == {"agent_1": "BC", "agent_2": "BC"}
    assert (
        episode.scenario.data["relationship"] == 2 and episode.scenario.cluster == "e2"
    )  # of the record with that text
    assert sotopia.row(episode, {}) == dialogue()


def test_an_episode_log_is_a_match_with_the_scores_of_its_judge(game: Social, tmp_path: Path) -> None:
    (record,) = sotopia.read(lines(tmp_path / "l.jsonl", row := log_row(game)), game.everything)
    episode = through(record, game)
    assert sotopia.row(episode, {}) == row and episode.players == {"agent_1": "a", "agent_2": "b"}
    assert sotopia.scores(record)["goal"] == {"agent_1": 1.0}  # 0.0 stands for no verdict: missing
    own = Episode.from_json({**episode.to_json(), "sotopia": {}})  # as if it were ours
    written = sotopia.row(own, {name: {"agent_1": 2.0} for name in sotopia.DIMENSIONS}, "mine")
    assert written["rewards"] == [[2.0, dict.fromkeys(sotopia.DIMENSIONS, 2.0)], 0.0]
    assert [turn[2:] for turn in written["messages"][:-1]] == [turn[2:] for turn in row["messages"]]  # type: ignore[index]
    assert written["messages"][1][0][2].startswith("Turn #0: ") and len(written["messages"][-1]) == 2
    (again,) = sotopia.read(lines(tmp_path / "m.jsonl", written), game.everything)
    assert [line.action for line in again.lines] == [line.action for line in record.lines]


@pytest.mark.skipif(not (REAL / "sotopia").is_dir(), reason="PARLEY_DATA has no sotopia/")
def test_the_151_real_dialogues_come_back_field_by_field() -> None:
    game = Social(str(REAL / "sotopia"))
    file = REAL / "human_ratings/episodes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    records = list(sotopia.read(file, game.everything))
    assert len(rows) == len(records) == 151 and all(record.task.environment for record in records)
    for row, record in zip(rows, records, strict=True):
        episode = through(record, game)
        assert sotopia.row(episode, {}) == row
        replay(game, episode)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parsed_conversation": [{"speaker": "Zed", "dialogue": "x"}]}, "'Zed' is none of"),
        ({"names": ["Ann Ash"]}, "none of Ann Ash"), ({"social_goal": {}}, "lacks the key"), ({"names": 3}, "line 1"),
    ],
)  # fmt: skip
def test_a_bad_dialogue_is_named(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(sotopia.read(lines(tmp_path / "d.jsonl", {**dialogue(), **change})))


def test_an_episode_of_unknown_people_or_with_no_action_is_named(game: Social, tmp_path: Path) -> None:
    row = log_row(game)
    with pytest.raises(InputError, match=r"no pair of game.path plays"):
        list(sotopia.read(lines(tmp_path / "l.jsonl", {**row, "environment": "zz"}), game.everything))
    turns = [[[next(iter(Task.from_json(game.scenarios("train")[0].data).names)), "Environment", "flies"]]]
    with pytest.raises(InputError, match="which is no action"):
        list(sotopia.read(lines(tmp_path / "l.jsonl", {**row, "messages": turns}), game.everything))


def test_import_and_export_through_the_tasks(tmp_path: Path) -> None:
    """What is brought in is a round like one of our own, is not brought in twice, and goes out again."""
    from parley.cli.tasks.exporting import export
    from parley.cli.tasks.importing import bring

    records = write(tmp_path / "records", [environment(f"e{number}", number % 6) for number in range(30)])
    game = {"_target_": "parley.games.social.Social", "path": str(records), "prompt": "published"}
    config = OmegaConf.create(
        {
            "game": game, "seed": 0, "hardware": {}, "resume": "none", "scorer": None, "policies": {"BC": {}},
            "objective": {}, "schedule": {},
        }
    )  # fmt: skip
    file = lines(tmp_path / "in.jsonl", dialogue(), log_row(Social(str(records), validation=0.0, test=0.0)))
    bring(config, tmp_path / "run", str(file))
    config.resume = str(tmp_path / "run")
    bring(config, tmp_path / "run", str(file))
    matches = Matches(tmp_path / "run" / STAGE)
    assert [each.id for each in matches] == [f"{STAGE}/E1/0", f"{STAGE}/L1/0"]
    (tmp_path / "out").mkdir()
    export(config, tmp_path / "out", str(tmp_path / "run"), "all", None)
    out = [json.loads(line) for line in (tmp_path / "out/sotopia.jsonl").read_text().splitlines()]
    assert out == [json.loads(line) for line in file.read_text().splitlines()]
    rows = list(read_conversations(tmp_path / "out/alpaca.jsonl"))
    seen = replay(Social(str(records), prompt="published"), matches[f"{STAGE}/E1/0"])
    live = [
        (request.messages[0].content, turn.text)
        for request, turn in zip(seen.requests, matches[f"{STAGE}/E1/0"].turns, strict=True)
    ]
    assert [tuple(message.content for message in log.messages) for _, log in rows] == sorted(
        live, key=lambda row: live.index(row) % 2
    )
    assert [log.demonstration("x").weights for _, log in rows] == [(0.0, 1.0)] * len(live)


def test_only_the_match_without_consent_is_left_out(game: Social, tmp_path: Path) -> None:
    [record] = sotopia.read(lines(tmp_path / "l.jsonl", log_row(game)), game.everything)
    [bare] = sotopia.read(lines(tmp_path / "d.jsonl", dialogue()), game.everything)
    with EpisodeStore(tmp_path / "round") as store:
        for each, training in ((record, True), (bare, False)):
            made = sotopia.match(each, game, STAGE)
            consent = {"consent": {"agent_1": {"training": training}}}
            store.append(replace(made, extra={**made.extra, **consent}))
    [file] = sotopia.export(tmp_path, game, [Matches(tmp_path / "round")], "run")
    assert [json.loads(line)["pk"] for line in file.read_text().splitlines()] == ["L1"]


def test_alpaca_rows_are_read() -> None:
    log = alpaca.log({"instruction": "Do", "input": "this", "output": "Done", "id": 3})
    assert log.messages == (Message("user", "Do\nthis"), Message("assistant", "Done")) and log.meta == {"id": 3}
    assert isinstance(log.demonstration("x"), Demonstration)
    for row in ({"output": "x"}, {"input": 3, "output": "x"}):
        with pytest.raises(ValueError, match=r"nothing is asked|must be texts"):
            alpaca.log(row)
