"""task=judge on stored matches: another judge, another rubric, a judge that errs, and rows that agreement reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.main import completed
from parley.cli.tasks.exporting import export
from parley.cli.tasks.importing import bring
from parley.cli.tasks.judging import judge
from parley.data.store import Matches
from parley.report.agreement import read
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.contents import saved
from parley.run.directory import changed_keys

from openai_server import Server, completion
from social_records import write

STAGE = "iter_001/play"


def dialogue(number: int) -> dict[str, object]:
    names = ["Ann Ash", "Bob Birch"]
    info = {
        "age": "9",
        "profession": "x",
        "pronouns": "They/them",
        "interests": "x",
        "personality": "y",
        "secrets": "z",
    }
    said = [{"speaker": names[turn % 2], "dialogue": f'"word {number} {turn}"'} for turn in range(4)]
    return {
        "episode": f"E{number}", "model": "BC", "scenario": "s", "names": names,
        "personal_info": {name: {"name": name, **info} for name in names},
        "social_goal": dict.fromkeys(names, "win"), "parsed_conversation": said,
    }  # fmt: skip


def verdict(text: str) -> str:
    """One dialogue in four is never rated; the others get a score that depends on the text alone."""
    lot = blake2b(text.encode(), digest_size=2).digest()
    good = json.dumps({"Ann Ash": {"goal": lot[1] % 11}, "Bob Birch": {"goal": 3}})
    return ("I cannot judge this.", good, f"So: {good}", good)[lot[0] % 4]


@pytest.fixture
def bodies() -> list[dict[str, Any]]:
    """What the judge was asked."""
    return []


@pytest.fixture
def server(bodies: list[dict[str, Any]]) -> Iterator[Server]:
    def talk(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return completion(body, verdict(body["messages"][1]["content"]))

    found = Server(talk)
    yield found
    found.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(dialogue(number)) + "\n" for number in range(12)))
    out = tmp_path / "run"
    bring(config(f"game.path={write(tmp_path / 'records')}", "task=import", f"task.path={file}"), out, str(file))
    return out


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        made = compose(
            "config", ["game=social", "metric=sampled.turns", "imitate.matches=0", "eval.opponents=[]", *words]
        )
    return made


def asked_of(run: Path, *words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        told = ["task=judge", f"run={run}", "scorer=judge", "rubric@scorer=goal", *words]
        return compose("config", completed(told))


def judged(run: Path, out: Path, *words: str) -> Any:
    made = asked_of(run, *words)
    judge(made, out, str(run), [])
    return made


def test_a_served_judge_s_ratings_are_stored_by_the_ids_of_the_people_s(
    run: Path, tmp_path: Path, server: Server, bodies: list[dict[str, Any]]
) -> None:
    words = [
        "players.judge=critic", "opponents.critic.model=some-model", "+backend@opponents.critic.backend=openai",
        f"opponents.critic.backend.url={server.url}",
    ]  # fmt: skip
    judged(run, tmp_path / "out", *words)
    rows = [json.loads(line) for line in (tmp_path / "out/ratings.jsonl").read_text().splitlines()]
    asked = {body["messages"][1]["content"] for body in bodies}
    assert {body["response_format"]["type"] for body in bodies} == {"json_schema"}
    rated = {text for text in asked if "cannot" not in verdict(text)}
    assert len(asked) == 12 and 0 < len(rated) < 12 and len(rows) == 2 * len(rated)
    assert {row["annotator"] for row in rows} == {"critic"} and {row["model"] for row in rows} == {"BC"}
    assert {row["scores"]["goal"] for row in rows if row["agent"] == 2} == {3.0}
    assert all("Secret: z" in text and "Ann Ash's goal: win" in text for text in asked)
    assert len(read([tmp_path / "out/ratings.jsonl"])) == len(rows)
    count = len(bodies)
    judged(run, tmp_path / "out", *words, f"resume={tmp_path / 'out'}")
    assert len(bodies) == count  # nothing is asked twice
    again = asked_of(run, *words)
    assert not changed_keys(saved(tmp_path / "out"), again)  # as the command line asks, before the task changes it
    assert not (run / STAGE / "score").exists()  # the run's own scores stay as they are


def test_both_orders_are_asked_where_that_is_wanted(run: Path, tmp_path: Path) -> None:
    judged(run, tmp_path / "out", "players.judge=dice", "scorer.swapped=true", "scorer.repeats=2")
    verdicts = list(Matches(tmp_path / "out" / STAGE / "score"))
    assert len(verdicts) == 12 * 2 * 2
    orders = {tuple(each.scenario.data["subjects"]) for each in verdicts}
    assert orders == {("Ann Ash", "Bob Birch"), ("Bob Birch", "Ann Ash")}
    rows = [json.loads(line) for line in (tmp_path / "out/ratings.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    by_match = [each for each in verdicts if each.scenario.data["match"].endswith("E0/0")]
    given = [next(iter(each.result.marks.values()))["scores"]["goal"]["Ann Ash"] for each in by_match]
    assert rows[0]["scores"]["goal"] == pytest.approx(sum(given) / 4)


def test_what_cannot_be_judged_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no matches in iter_009/play"):
        judge(config("game.path=.", "scorer=judge", "players.judge=dice"), tmp_path / "o", str(run), ["iter_009/play"])
    with pytest.raises(ConfigError, match="needs a judge"):
        judge(config("game.path=."), tmp_path / "o", str(run), [])
    with pytest.raises(ConfigError, match="there is no judge dicey"):
        judged(run, tmp_path / "o", "players.judge=dicey")


def test_exports_of_a_judged_import_have_its_own_scores_only(run: Path, tmp_path: Path) -> None:
    judged(run, tmp_path / "out", "players.judge=dice")
    (tmp_path / "back").mkdir()
    export(config("game.path=."), tmp_path / "back", str(run), "all", None)
    rows = [json.loads(line) for line in (tmp_path / "back/sotopia.jsonl").read_text().splitlines()]
    assert rows == sorted((dialogue(number) for number in range(12)), key=lambda row: str(row["episode"]))


@pytest.mark.parametrize(("metric", "warned"), [("sampled.goal", True), ("sampled.true_goal", False)])
def test_one_judge_for_filter_and_figure_is_warned_of(tmp_path: Path, metric: str, warned: bool) -> None:
    words = ["players.judge=critic", "opponents.critic.model=m", "+backend@opponents.critic.backend=openai"]
    with initialize_config_module("parley.conf", version_base="1.3"):
        made = compose("config", ["experiment=social_tiny", f"metric={metric}", *words])
    made.opponents.critic.backend.url = "http://127.0.0.1:9/v1"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(made, tmp_path)
    assert any("critic both chooses" in str(each.message) for each in caught) is warned
