"""The table of writers: what each makes of scripted matches, and what reads it back: parley, and `datasets`."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.data.formats import conversations, writers
from parley.data.formats.writers import WRITERS, Chosen, Source
from parley.data.replay import replay
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Message, services
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from parley.report.cards import data_card
from parley.run.config import register
from parley.system.files import write_text

register()
GAMES = {"deal_short": "demo", "taboo_tiny": "fair", "tales": "", "qa_tiny": "expert"}  # and a script of each


@cache
def game(name: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return instantiate(compose("config", [f"game={name}"]).game)


def played(name: str, folder: Path, k: int = 3) -> Source:
    """Matches of the first scenarios of a game, played by a script that now and then says nothing legal."""
    made = game(name)
    script = made.scripts().get(GAMES[name], lambda request, own, persona: own.choice(["the cat sat", "a dog ran"]))

    def stumbling(request, own, persona):
        return "?" if own.random() < 0.15 else script(request, own, persona)

    with EpisodeStore(folder / "play") as store:
        seatings = self_play(made, made.scenarios("train")[:8], "learner", 0, "iter_001/play", k)
        served = {name: ScriptedPlayer(serves, name) for name, serves in services(made).items() if callable(serves)}
        players = {"learner": ScriptedPlayer(stumbling, "learner"), **served}
        Arena(made, players).play(seatings, store.append)
    matches = Matches(folder / "play")
    chosen = [
        Chosen(each, seat, frozenset(turn.request for turn in each.turns if turn.seat == seat) - each.refused(seat))
        for each in matches
        for seat in each.result.returns
        if any(turn.seat == seat for turn in each.turns)
    ]
    return Source(made, "run", "learner", 0, chosen, [writers.log(made, each) for each in chosen], [matches])


def written(source: Source, out: Path):
    return [each for name in WRITERS for each in WRITERS[name](out, source)]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("deal_short", set()),
        ("taboo_tiny", {"spag_episodes", "spag_rows"}),
        ("tales", {"spin", "alpaca"}),
        ("qa_tiny", {"trajectories", "alpaca", "alpaca_right", "right_wrong"}),
    ],
)
def test_every_file_holds_the_rows_that_it_says_and_is_read_again(name, others, tmp_path):
    source = played(name, tmp_path)
    found = {each.name: each for each in written(source, tmp_path / "out")}
    assert {"messages", "completions", "openai", "sharegpt"} | others <= set(found)
    for each in found.values():
        text = each.path.read_text()
        rows = [json.loads(line) for line in text.splitlines()] if each.path.suffix == ".jsonl" else json.loads(text)
        assert each.rows in (None, len(rows))
    for layout in ("messages", "completions", "openai", "sharegpt"):
        logs = [log for _, log in conversations.read(found[layout].path)]
        assert len(logs) == found[layout].rows
    accepted = sum(len(each.replies) for each in source.chosen)
    assert found["completions"].rows == accepted > 0


def test_no_writer_hands_on_a_refused_reply(tmp_path):
    source = played("deal_short", tmp_path)
    refused = {turn.request for each in source.chosen for turn in each.episode.turns if turn.text == "?"}
    assert refused
    for row in writers.completions(source.logs):
        assert row["completion"][0]["content"] != "?"
    for row in writers.sharegpt(source.logs):
        said = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
        assert "?" not in said and row["conversations"][-1]["from"] == "gpt"


def test_preferences_are_the_widest_gaps_of_groups_where_views_part_at_an_own_reply(tmp_path):
    source = played("deal_short", tmp_path, k=6)
    rows = list(writers.preferences(source.game, source.rounds[0], "learner"))
    groups = defaultdict(list)
    for episode in source.rounds[0]:
        for seat, view in replay(source.game, episode).views.items():
            if seat in episode.result.returns:
                groups[episode.scenario.id, seat].append((episode.result.returns[seat], view))
    assert 0 < len(rows) == len({(row["scenario"], row["role"]) for row in rows}) <= len(groups)
    for row in rows:
        group, prompt = groups[row["scenario"], row["role"]], [each["content"] for each in row["prompt"]]
        assert row["payoff_chosen"] > row["payoff_rejected"] and row["chosen"] != row["rejected"]
        assert {one["role"] for one in (*row["chosen"], *row["rejected"])} == {"assistant"}
        for side in ("chosen", "rejected"):
            told = [*prompt, row[side][0]["content"]]
            assert any(
                payoff == row[f"payoff_{side}"] and [said.content for said in view[: len(told)]] == told
                for payoff, view in group
            )
        gaps = [
            one - two
            for one, first in group
            for two, second in group
            if writers._parting(first, second, frozenset()) is not None and "?" not in [said.content for said in first]
        ]
        assert row["payoff_chosen"] - row["payoff_rejected"] >= max(gaps)


def test_matches_of_people_who_did_not_agree_are_left_out(tmp_path):
    source = played("deal_short", tmp_path)
    asked = [replace(each, players={"first": "learner", "second": "person:ann"}) for each in source.rounds[0]]
    assert list(writers.preferences(source.game, asked, "learner")) == []
    assert replace(source, rounds=[asked]).played == []


def test_a_pair_never_parts_at_what_the_other_said():
    def view(*texts):
        return [
            Message("assistant" if at % 2 else "user", text, f"a.{at}" if at % 2 else None)
            for at, text in enumerate(texts)
        ]

    assert writers._parting(view("p", "x"), view("p", "y"), frozenset()) == 1
    assert writers._parting(view("p", "x"), view("p", "y"), frozenset({"a.1"})) is None
    assert writers._parting(view("p", "x", "u"), view("p", "x", "v"), frozenset()) is None
    assert writers._parting(view("p", "x"), view("p", "x"), frozenset()) is None


@pytest.mark.parametrize("name", GAMES)
def test_datasets_loads_every_file_of_rows_by_the_card(name, tmp_path):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    found = written(played(name, tmp_path), out)
    write_text(out / "README.md", data_card(tmp_path, out, found, "all"))
    named = {each.name: each.rows for each in found if each.rows}
    assert set(datasets.get_dataset_config_names(str(out))) == set(named)
    for config, rows in named.items():
        loaded = datasets.load_dataset(str(out), config, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == rows and loaded[0]


def test_the_card_names_every_file_and_no_path_of_this_machine(tmp_path):
    out = tmp_path / "out"
    found = written(played("qa_tiny", tmp_path), out)
    card = data_card(tmp_path, out, found, "credit")
    head = yaml.safe_load(card.split("---")[1])
    assert {each["config_name"] for each in head["configs"]} == {each.name for each in found if each.rows}
    assert str(tmp_path) not in card and all(f"`{each.path.name}`" in card for each in found)
