"""Sotopia's rules: who knows what, how an episode ends, what is an action; the contract on the real records."""

import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml
from parley.games import conformance
from parley.games.base import Illegal, Reply
from parley.games.social import KINDS, NONE, Action, Person, Social, Task, parse
from parley.games.social.actions import LEAVE, heard
from parley.games.social.ending import cap, over
from parley.games.social.people import seen
from parley.games.social.prompts import FORMS, plain
from parley.games.verdict import Rubric, dice
from parley.models.snapshot import Snapshot
from parley.run import openings
from parley.system.files import InputError

from social_records import RUBRIC, environment, play, say, write

DATA = Path(os.environ.get("PARLEY_DATA", "nowhere")) / "sotopia"
CONF = Path(__file__).parents[2] / "conf"
GO = LEAVE.written()


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "records")


class Rated(Social):
    """Its judge rates at random, so that the kit sees verdicts."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        rubric = self.rules.judge
        self.services = {"judge": lambda request, own, persona: dice(rubric, request, own)}


FORMS_OF_PLAY = [
    {}, {"order": "simultaneous"}, {"form": "faithful"}, {"prompt": "compact", "retries": 0}, {"turns": 3, "idle": 0},
]  # fmt: skip


@pytest.mark.parametrize("options", FORMS_OF_PLAY, ids=str)
def test_contract(folder, options):
    conformance.check(Social(str(folder), **options), matches=24)
    conformance.check(Rated(str(folder), judge=RUBRIC, **options), matches=24)


def test_no_prompt_of_a_file_is_rendered_before_the_first_request(folder):
    """A run asks games for such prompts by the name `given`; here it would find no model to render them with."""
    openings.check(Social(str(folder)), Snapshot("none", "nowhere"))


def test_three_people_conform(tmp_path):
    rows = [environment(f"e{number}", number % 6, people=2 + number % 2) for number in range(30)]
    for order in ("round_robin", "simultaneous"):
        game = Rated(str(write(tmp_path / order, rows)), order=order, judge=RUBRIC)
        conformance.check(game, matches=24)
        assert game.roles == ("agent_1", "agent_2", "agent_3")
        assert {len(game.seats(each)) for each in game.scenarios("train")} == {2, 3}


def test_the_published_message_conforms_but_for_its_views(folder):
    for name, check in conformance.CHECKS.items():
        if name != "views":  # one message, written anew
            check(Social(str(folder), prompt="published"), matches=16)


@pytest.mark.skipif(not DATA.is_dir(), reason="PARLEY_DATA has no sotopia/")
def test_the_real_records_conform_on_every_pair():
    node = yaml.safe_load((CONF / "game/social.yaml").read_text())
    game = Social(str(DATA), named=node["named"], test="hard")
    pairs = [each for split in ("train", "validation", "test") for each in game.scenarios(split)]
    assert len(pairs) == 450 and len({each.cluster for each in pairs}) == 90
    assert len(game.scenarios("test")) == 70  # 14 environments
    for name in ("scenarios", "seats", "json", "secrets", "views", "replay", "context"):
        conformance.CHECKS[name](game, matches=40)
    talk = game.scripts()["chatty"]
    for scenario in pairs:
        match = game.match(scenario, 0)
        asked = match.start()
        while asked:
            shown = "\n".join(message.content for message in asked[0].messages)
            assert "<" not in shown and " nan" not in shown
            hidden = [text for seat, own in game.secrets(scenario).items() if seat != asked[0].seat for text in own]
            assert not [text for text in hidden if text.casefold() in shown.casefold()]
            asked = match.step([Reply(asked[0].id, talk(asked[0], Random(1), Random(2)))])
        assert match.result().outcome in ("left", "cap")


@pytest.mark.skipif(not DATA.is_dir(), reason="PARLEY_DATA has no sotopia/")
def test_an_environment_s_relationship_counts_where_a_pair_s_row_disagrees():
    rows = [json.loads(line) for line in (DATA / "relationship_profiles.jsonl").read_text().splitlines()]
    told = {frozenset((row["agent1_id"], row["agent2_id"])): int(row["relationship"]) for row in rows}
    game = Social(str(DATA), validation=0.0, test=0.0)
    pairs = [Task.from_json(each.data) for each in game._splits["train"]]
    differ = [task for task in pairs if told[frozenset(person.id for person in task.people)] != task.relationship]
    assert len(differ) == 10 and {task.relationship for task in differ} == {0}
    assert all(task.levels(0) == (4, 0) for task in differ)


# --- who knows what ---------------------------------------------------------------------------------------------------

BOTH = (
    Person("Ann Ash", 30, "Baker", "Woman", "She/her", "Has cats.", "Is merry.", "Stole a cake."),
    Person("Bob Birch", 41, "Cook", "Man", "He/him", "Has dogs.", "Is glum.", "Ate it."),
)
OTHER = {  # relationship -> what is shown of the other
    0: "Unknown", 1: "Bob Birch", 2: "Bob Birch is a 41-year-old male cook. He/him pronouns. Has dogs.",
    **dict.fromkeys(
        (3, 4, 5), "Bob Birch is a 41-year-old male cook. He/him pronouns. Has dogs. Personality and values: Is glum."
    ),
}  # fmt: skip
OWN = (
    "Ann Ash is a 30-year-old female baker. She/her pronouns. Has cats. Personality and values: Is merry. "
    "Secret: Stole a cake."
)


def task(relationship):
    return Task("At a fair.", relationship, ("Sell. <extra_info>Dear.</extra_info>", "Buy."), BOTH)


@pytest.mark.parametrize("relationship", range(6))
def test_visibility(relationship):
    lines = task(relationship).context(0).split("\n")
    assert lines == [
        "Scenario: At a fair.", "Participants: Ann Ash and Bob Birch",
        f"Ann Ash's background: {OWN}", f"Bob Birch's background: {OTHER[relationship]}",
        "Ann Ash's goal: Sell. Dear.", "Bob Birch's goal: Unknown",
    ]  # fmt: skip
    judge = task(relationship).context(None)
    assert "Secret: Ate it." in judge and OWN in judge and "Bob Birch's goal: Buy." in judge
    assert ("Ann Ash's background: Unknown" in task(relationship).context(0, "faithful")) == (relationship == 0)
    assert "Ate it." in task(relationship).hidden(1) and "Buy." in task(relationship).hidden(1)
    assert ("Is glum." in task(relationship).hidden(1)) == (relationship < 3)


def test_spans_are_shown_to_their_viewer_alone():
    text = (
        """A <p viewer="agent_1">one</p><p viewer='environment'>all</p> <strategy_hint>try</strategy_hint> <b>z</b>"""
    )
    text += " 1 < 2"
    assert [seen(text, viewer) for viewer in ("agent_1", "agent_2", "environment")] == [
        "A one try z 1 < 2", "A  try z 1 < 2", "A oneall try z 1 < 2",
    ]  # fmt: skip


def test_a_secret_that_the_situation_tells_everybody_is_none():
    open_ = replace(task(0), situation="Bob Birch wants to buy. Buy.")
    assert "Buy." not in open_.hidden(1) and "Ate it." in open_.hidden(1)


# --- actions ----------------------------------------------------------------------------------------------------------

WORDS = (
    'say "hi"',
    "said: no",
    "[action] twice",
    "brace } {",
    "did nothing",
    "x\u2028y",
    "İ ß \\",
    "{}",
    "none",
    "leave",
)


@pytest.mark.parametrize("seed", range(30))
def test_an_action_is_read_back_from_json_from_words_and_from_bare_words(seed):
    draw = Random(seed)
    kind = KINDS[seed % len(KINDS)]
    argument = " ".join(" ".join(draw.sample(WORDS, 3)).split()) if kind not in ("none", "leave") else ""
    action = Action(kind, argument)
    assert parse(Reply("", f"Well, {action.written()} So.")) == action == parse(Reply("", action.written()))
    assert heard(action.told()) == action
    view = FORMS["compact"]("agent_1", task(0), 0, "corrected")
    assert view.parse(Reply("", plain(action))) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"), ("hi", "no JSON"), ("{", "no JSON"), ("{" * 9999 + "}", "no JSON"), ("[]", "no JSON"),
        ('{"argument": "x"}', "no action"), ('{"action_type": "fly", "argument": ""}', "no action"),
        ('{"action_type": ["speak"], "argument": "x"}', "no action"), ('{"action_type": "speak"}', "no argument"),
        ('{"action_type": "speak", "argument": 3}', "no argument"),
        ('{"action_type": "action", "argument": " "}', "no argument"),
    ],
)  # fmt: skip
def test_what_is_no_action_is_refused(text, reason):
    found = parse(Reply("", text))
    assert isinstance(found, Illegal) and found.reason == reason and found.told


# --- how an episode ends ----------------------------------------------------------------------------------------------

S, N, L = Action("speak", "x"), NONE, LEAVE
IN_TURN = lambda *acts: [{turn % 2: act} for turn, act in enumerate(acts)]  # noqa: E731
ENDINGS = [  # turns in turn, how they end: corrected, faithful
    ((S, S), None, None),
    ((S, N), None, "stale"),  # the first one's empty turns count as idle
    ((S, S, N), None, None),
    ((N,), None, None),
    ((S, N, N), None, "stale"),
    ((S, N, N, N), "stale", "stale"),
    ((N, N, N), "stale", "stale"),
    ((N, N, S, N, N), None, "stale"),
    ((L,), "left", "left"),
    ((S, L), "left", "left"),
    ((S, S, S), None, None),
]


@pytest.mark.parametrize(("acts", "corrected", "faithful"), ENDINGS)
def test_termination(acts, corrected, faithful):
    log = IN_TURN(*acts)
    assert over(log, 2, 2, "corrected") == corrected and over(log, 2, 2, "faithful") == faithful
    swapped = [{1 - seat: act for seat, act in turn.items()} for turn in log]
    assert over(swapped, 2, 2, "corrected") == corrected  # whoever begins


def test_three_go_on_after_one_has_left():
    assert over([{0: S}, {1: L}, {2: S}], 3, 2, "corrected") is None
    assert over([{0: S}, {1: L}, {2: S}], 3, 2, "faithful") is None  # not in the last turn
    assert over([{0: S}, {1: L}, {2: L}], 3, 2, "corrected") == "left"


@pytest.mark.parametrize(("form", "turns"), [("corrected", 20), ("faithful", 21)])
def test_twenty_turns(folder, form, turns):
    game = Social(str(folder), form=form)
    scenario = game.scenarios("train")[0]
    result, asked = play(game, scenario, *[say("hm")] * turns)
    assert result is not None and result.outcome == "cap" and len(asked) == turns == cap(20, form)
    assert [each.seat for each in asked[:3]] == ["agent_1", "agent_2", "agent_1"]


# --- golden -----------------------------------------------------------------------------------------------------------


def two_strangers(folder):
    game = Social(str(folder), judge=RUBRIC)
    return game, next(each for each in game.scenarios("train") if each.data["relationship"] == 0)


def test_golden_episode(folder):
    game, scenario = two_strangers(folder)
    rating = {name: {"goal": 7, "secret": -2} for name in Task.from_json(scenario.data).names}
    one, other = rating
    result, asked = play(
        game, scenario, say("Hi  there"), "no idea", say("Hello"), Action("action", "waves").written(), "a", "b", "c",
        GO, "I cannot", json.dumps(rating),
    )  # fmt: skip
    first, retry, last, judge = asked[0], asked[2], asked[7], asked[8]
    assert [each.role for each in first.messages] == ["system", "user"]
    assert (
        scenario.data["goals"][0].split(" (")[0] in first.messages[0].content
        and "rains" not in first.messages[0].content
    )
    assert first.messages[1].content == "The conversation starts."
    assert asked[1].messages[1].content == f'The conversation starts.\nTurn #0: {one} said: "Hi there"'
    assert retry.kind == "retry" and "no JSON object" in retry.messages[-1].content
    assert last.seat == "agent_1" and last.messages[-1].content == f"Turn #3: {other} did nothing"
    story = judge.messages[1].content
    assert f'Turn #1\n{one} said: "Hi there"\nTurn #2\n{other} said: "Hello"' in story and "rains" in story
    assert story.count("Secret: ") == 2 and f"{one} left the conversation\n\nRate {one} and {other}" in story
    assert result is not None and (result.outcome, result.blame) == ("left", ())
    assert result.returns == {"agent_1": 0.0, "agent_2": 0.0}
    assert result.metrics["goal"] == {"agent_1": 7.0, "agent_2": 7.0}
    assert result.metrics["overall"] == {"agent_1": 2.5, "agent_2": 2.5}
    assert result.metrics["judged_rate"] == 1.0 and result.metrics["asked"] == 2.0
    assert result.metrics["legal_rate"] == {"agent_1": 1.0, "agent_2": 0.2}
    assert result.metrics["silent"] == {"agent_1": 0.0, "agent_2": 1.0}
    assert result.marks["agent_2.1"] == {"retry": "no JSON"}


def test_a_verdict_that_never_comes_is_missing_and_costs_nobody_the_match(folder):
    game, scenario = two_strangers(folder)
    result, _ = play(game, scenario, GO, "I", "will", "not")
    assert result is not None and (result.outcome, result.blame) == ("left", ())
    assert result.metrics["judged_rate"] == 0.0 and not {"goal", "secret", "overall"} & result.metrics.keys()


def test_the_published_message_tells_everything_anew(folder):
    game = Social(str(folder), prompt="published")
    _, asked = play(game, game.scenarios("train")[0], say("Hi"), say("Oh"), "what", say("Yes"))
    assert [len(each.messages) for each in asked] == [1, 1, 1, 3, 1]
    text = asked[2].messages[0].content
    assert ' said: "Hi"\nTurn #1: ' in text and "It is turn #2" in text  # one's own words among the others'
    assert asked[3].messages[0].content == text


def test_simultaneous_turns_show_each_other_s_actions_afterwards(tmp_path):
    game = Social(str(write(tmp_path, [environment(f"e{n}", 3, 3) for n in range(30)])), order="simultaneous", turns=2)
    result, asked = play(
        game, game.scenarios("train")[0], say("a"), "bad", GO, say("b"), say("c"), say("d")
    )  # fmt: skip
    assert [each.id for each in asked] == ["agent_1.1", "agent_2.1", "agent_3.1", "agent_2.2", "agent_1.2", "agent_2.3"]
    told = asked[4].messages[-1].content
    assert 'said: "b"' in told and "left the conversation" in told and 'said: "a"' not in told
    assert result is not None and result.outcome == "cap" and result.metrics["turns"] == 2.0


# --- bad input, splits ------------------------------------------------------------------------------------------------


def test_splits_follow_lists_and_what_is_generated_is_never_tested(tmp_path, folder):
    named = {"mine": ["e1", "e2"], "both": ["e2", "e3"]}
    game = Social(str(folder), named=named, test="mine", validation="both")
    places = {split: {each.cluster for each in game.scenarios(split)} for split in ("train", "validation", "test")}
    assert places["test"] == {"e1", "e2"} and places["validation"] == {"e3"} and len(places["train"]) == 27
    more = write(tmp_path / "more", [environment(f"g{number}", 0) for number in range(20)])
    game = Social(str(folder), generated=str(more), named=named, test="mine")
    places = {split: {each.cluster[0] for each in game.scenarios(split)} for split in ("train", "validation", "test")}
    assert places == {"train": {"g"}, "validation": {"g"}, "test": {"e"}}
    everything = Social(str(folder), generated=str(more)).scenarios("test")
    assert {each.cluster for each in everything} == {f"e{number}" for number in range(30)}


TASK = {"env_id": "e", "agent_goals": ["a", "b"], "scenario": "s", "relationship": "1"}
PAIR = {"combo_id": "c", "env_id": "e1", "agent_ids": ["p0", "p1"]}
BAD = [
    ("agent_profiles", "{", "line 1: "),
    ("agent_profiles", {"agent_id": "x"}, "needs first_name"),
    ("agent_profiles", {"first_name": "X"}, "neither agent_id nor pk"),
    ("environment_profiles", {**TASK, "agent_goals": ["a"]}, "at least two texts"),
    ("environment_profiles", {**TASK, "relationship": "x"}, "whole number"),
    ("environment_profiles", {**TASK, "scenario": "nan"}, "needs a scenario"),
    ("env_agent_combo_storages", {**PAIR, "env_id": "zz"}, "no environment 'zz'"),
    ("env_agent_combo_storages", {**PAIR, "agent_ids": ["p0", "p9"]}, "no character 'p9'"),
    ("env_agent_combo_storages", {**PAIR, "agent_ids": ["p0"]}, "a goal for each"),
    ("env_agent_combo_storages", {**PAIR, "agent_ids": ["p0", "p0"]}, "tell the people apart"),
    ("env_agent_combo_storages", "{]", "line 1: "),
]


@pytest.mark.parametrize(("file", "row", "says"), BAD)
def test_a_bad_record_is_named(folder, file, row, says):
    (folder / f"{file}.jsonl").write_text((row if isinstance(row, str) else json.dumps(row)) + "\n")
    with pytest.raises(InputError, match=says) as error:
        Social(str(folder))
    assert f"{file}.jsonl" in str(error.value)


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="give a folder"):
        Social(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no list 'soft'"):
        Social(str(folder), test="soft")
    (tmp_path / "lists.json").write_text("[1]")
    with pytest.raises(InputError, match=r"lists.json: expected an object"):
        Social(str(folder), lists=str(tmp_path / "lists.json"))
    with pytest.raises(ValueError, match="at least one scale"):
        Social(str(folder), judge={"task": "x", "scales": {}})


def test_overall_keeps_its_bounds():
    rubric = Rubric.of(**yaml.safe_load((CONF / "rubric/sotopia.yaml").read_text()))
    ends = [
        rubric.rated({name: {"a": end(scale.low, scale.high)} for name, scale in rubric.scales.items()})["overall"]["a"]
        for end in (min, max)
    ]
    assert len(rubric.scales) == 7 and [round(end, 2) for end in ends] == [-4.29, 5.71]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 4),
        ({"retries": 2}, 12),
        ({"judge": RUBRIC}, 7),
        ({"form": "faithful"}, 5),
        ({"order": "simultaneous"}, 8),
    ],
)
def test_the_most_requests_of_an_episode_of_four_turns(folder, options, most):
    assert (
        Social(str(folder), turns=4, **{"retries": 0, **options}).facts.max_requests == most
    )  # a judge is asked thrice
