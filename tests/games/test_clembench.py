"""clembench's games behind the contract, on two small games of our own (tests/fixtures/clembench). What needs clemcore
is skipped where that is not installed (`make clembench`)."""

import importlib.util
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
from parley.games import conformance
from parley.games.base import Reply, Request, Result
from parley.games.clembench.game import Clembench
from parley.games.clembench.instances import Instances, listed, scenarios
from parley.games.clembench.match import METRICS
from parley.games.clembench.suite import Benchmark
from parley.system.files import InputError

GAMES = str(Path(__file__).parents[1] / "fixtures" / "clembench")
needs_clemcore = pytest.mark.skipif(
    not (importlib.util.find_spec("clemcore") and importlib.util.find_spec("greenlet")), reason="needs make clembench"
)


def polite(request: Request, own, persona) -> str:
    """A guest, a teller or a hearer who plays well."""
    if request.seat == "guest":
        return own.choice(["yes", "no"])
    words = [word.strip(".") for message in request.messages for word in message.content.split()]
    number = next(word for word in words if word.isdigit())
    return f"NUMBER: {number}" if request.seat == "teller" else f"ANSWER: {number}"


def game(name: str) -> Clembench:
    return Clembench(name, GAMES, scripted={"polite": polite})


def play(name: str, *texts: str | Reply, scenario: int = 0) -> tuple[Result, list[Request]]:
    built = game(name)
    match = built.match(built.scenarios("train")[scenario], 0)
    requests, asked = match.start(), []
    for text in texts:
        asked += requests
        reply = text if isinstance(text, Reply) else Reply("", text)
        requests = match.step([Reply(requests[0].id, reply.text, reply.finish)])
    assert not requests
    return match.result(), asked


@needs_clemcore
@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("name", ["numbers", "asked"])
def test_contract(name, check):
    conformance.CHECKS[check](game(name), matches=8, seed=0)


@needs_clemcore
def test_golden_numbers():
    built = game("numbers")
    number = built.instances.rows["low", built.scenarios("train")[0].data["game_id"]]["number"]
    result, asked = play("numbers", f"NUMBER: {number}", f"ANSWER: {number}", "NUMBER: x", f"ANSWER: {number}")
    assert [(each.id, each.kind) for each in asked] == [
        ("teller.1", "act"), ("hearer.1", "act"), ("teller.2", "act"), ("hearer.2", "act"),
    ]  # fmt: skip
    assert [(each.role, each.content) for each in asked[1].messages] == [
        ("user", f"Repeat the number after ANSWER:.\n\nNUMBER: {number}")
    ]
    assert [each.request for each in asked[3].messages] == [None, "hearer.1", None]
    assert result.returns == {"teller": 1.0, "hearer": 1.0} and result.outcome == "success"
    assert result.outcome_by_seat == {"teller": "win", "hearer": "win"}
    assert set(result.metrics) == set(METRICS) and result.metrics["quality"] == 100.0


@needs_clemcore
def test_a_lost_match_was_played_and_an_aborted_one_was_not():
    lost, _ = play("numbers", "NUMBER: 1", "ANSWER: nothing")
    assert (lost.outcome, lost.metrics["played_rate"], lost.metrics["quality"]) == ("failure", 1.0, 0.0)
    aborted, _ = play("numbers", "NUMBER: 1", "what?")
    assert (aborted.outcome, aborted.blame, aborted.metrics["played_rate"]) == ("aborted", ("hearer",), 0.0)
    assert aborted.metrics["main_score"] == 0.0 and "quality" not in aborted.metrics
    assert aborted.outcome_by_seat == {"teller": "void", "hearer": "void"}


@needs_clemcore
def test_a_question_aside_is_a_probe_and_a_refused_reply_is_a_retry():
    result, asked = play("asked", "maybe", "yes", "I am sure")
    assert [each.kind for each in asked] == ["act", "retry", "probe"]
    assert asked[2].messages[-1].content == "Aside: are you sure?"
    assert result.marks == {"guest.1": {"retry": "refused"}} and result.metrics["retry_rate"] == {"guest": 1.0}
    assert result.outcome in ("success", "failure")
    assert play("asked", "maybe", "perhaps")[0].blame == ("guest",)


@needs_clemcore
def test_a_match_that_is_cut_off_or_outgrows_the_model():
    short = Clembench("numbers", GAMES, max_requests=1)
    match = short.match(short.scenarios("train")[0], 0)
    (request,) = match.start()
    assert not match.step([Reply(request.id, "NUMBER: 1")]) and match.result().outcome == "cut"
    result, _ = play("numbers", Reply("", "", "context"))
    assert (result.outcome, result.blame) == ("context", ("teller",))


@needs_clemcore
def test_a_game_master_that_raises_fails_its_match_in_one_line(monkeypatch):
    built = game("numbers")
    master = type(built.benchmark.create_game_master({}, [object(), object()]))

    def broken(self, player, parsed_response):
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(master, "_on_valid_player_response", broken)
    match = built.match(built.scenarios("train")[0], 0)
    (request,) = match.start()
    with pytest.warns(UserWarning, match="the game master raised RuntimeError: no such$"):
        assert not match.step([Reply(request.id, "NUMBER: 1")])
    assert (match.result().outcome, match.result().metrics["crash_rate"]) == ("crash", 1.0)


@needs_clemcore
def test_importing_clemcore_disturbs_nothing(tmp_path):
    code = (
        "import logging, sys; log = logging.getLogger('mine'); before = logging.root.handlers[:]; "
        "from parley.games.clembench.library import library; assert 'clemcore' not in sys.modules; library(); "
        "print(log.disabled, logging.root.handlers == before, 'gradio' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "True", "False", "False"] and list(tmp_path.iterdir()) == []
    assert not logging.getLogger(__name__).disabled


@needs_clemcore
def test_a_benchmark_version_is_a_game_of_its_games():
    suite = Benchmark(GAMES, {"benchmark": 2.0})
    assert set(suite.members) == {"numbers", "asked"} and set(Benchmark(GAMES, {"benchmark": "1.0"}).members) == {
        "asked"
    }
    assert [each.id.partition(":")[0] for each in suite.scenarios("train")[:2]] == ["asked/asked", "numbers/numbers"]
    conformance.check(suite, matches=6, seed=0)
    apart = Benchmark(GAMES, {"benchmark": 2.0}, unseen=["asked"])
    assert {each.id.partition("/")[0] for each in apart.scenarios("train")} == {"numbers"}
    assert {"numbers.quality", "unseen.asked.quality"} < set(apart.facts.metrics)
    for words in ({"without": ["nobody"]}, {"unseen": ["nobody"]}):
        with pytest.raises(InputError, match="nobody: no such game"):
            Benchmark(GAMES, **words)
    with pytest.raises(InputError, match="choose another version"):
        Benchmark(GAMES, {"benchmark": "9"})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"name": "number", "path": GAMES}, "is no game of .*; did you mean numbers?"),
        ({"name": "numbers", "path": "nowhere"}, "nowhere is no folder; git clone"),
        ({"name": "numbers", "path": str(Path(GAMES, "numbers", "in"))}, "holds no game"),
        ({"name": "numbers_shown", "path": GAMES}, "shows images"),
        (
            {"name": "numbers", "path": GAMES, "instances": "instance"},
            "has no instances instance; did you mean instances?",
        ),
        ({"name": "numbers", "path": GAMES, "experiments": ["lo"]}, "has no experiment lo; did you mean low?"),
    ],
)
def test_wrong_words_are_told(words, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        Clembench(**words)


def test_instances_have_stable_ids_and_fall_into_splits_by_hash():
    rows = list(Instances.read(listed(GAMES)["numbers"], None, None).rows)
    splits = scenarios("numbers", rows, 0, 0.2, None)
    assert {name: len(each) for name, each in splits.items()} == {"train": 8, "validation": 4, "test": 4}
    assert splits == scenarios("numbers", rows, 0, 0.2, None) != scenarios("numbers", rows, 1, 0.2, None)
    found = [scenario for each in splits.values() for scenario in each]
    assert len({each.id for each in found}) == 16
    assert found[0].id == f"numbers:{found[0].data['experiment']}:{found[0].data['game_id']}"


def test_a_file_may_say_which_instance_is_in_which_split(tmp_path):
    file = tmp_path / "split.jsonl"
    said = [("low", 0, "train"), ("low", 1, "validation"), ("low", 2, "validation"), ("high", 3, "validation")]
    lines = [
        {"messages": [], "meta": {"game": "numbers", "experiment": name, "task_id": number, "split": split}}
        for name, number, split in said
    ]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {**lines[0]["meta"], "game": "another"}]))
    rows = list(Instances.read(listed(GAMES)["numbers"], None, None).rows)
    splits = scenarios("numbers", rows, 0, 0.0, str(file))
    held_out = {each.id for name in ("validation", "test") for each in splits[name]}
    assert held_out == {"numbers:low:1", "numbers:low:2", "numbers:high:3"}
    assert all(splits.values()) and "numbers:low:0" in {each.id for each in splits["train"]}
    file.write_text('{"game": "numbers", "experiment": "low", "task_id": 1, "split": "dev"}')
    with pytest.raises(InputError, match=r"line 1: expected game, experiment, task_id and split"):
        scenarios("numbers", rows, 0, 0.2, str(file))


@needs_clemcore
def test_what_a_game_needs_is_named(tmp_path):
    for source, told in (
        ("import no_such_package_at_all", "needs the package no_such_package_at_all: pip install"),
        ("raise LookupError('\\n  Resource \\x1b[93mstopwords\\x1b[0m not found.\\n')", "nltk.downloader stopwords"),
    ):
        folder = tmp_path / told[-9:]
        (folder / "in").mkdir(parents=True)
        (folder / "master.py").write_text(source)
        (folder / "clemgame.json").write_text(json.dumps({"game_name": "odd", "players": 1, "image": "none"}))
        (folder / "in" / "instances.json").write_text('{"experiments": [{"name": "a", "game_instances": []}]}')
        entry = {"languages": ["en"], "benchmark": [], "roles": ["A"], "description": "", "main_game": "odd"}
        (folder / "clemgame.json").write_text(json.dumps({"game_name": "odd", "players": 1, "image": "none", **entry}))
        with pytest.raises(InputError, match=told):
            Clembench("odd", str(folder))


def test_numbers_that_are_none():
    from parley.games.clembench.match import _number

    assert [_number(each) for each in (None, math.nan, "3", 2, 0.5)] == [0.0, 0.0, 0.0, 2.0, 0.5]
