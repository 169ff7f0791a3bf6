"""What people did, as files: what is in them, what is not, who is forgotten, and the figures against people."""

from __future__ import annotations

import asyncio
import csv
import json
import stat
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.cli.main import check
from parley.cli.tasks.people import people
from parley.data.consent import trainable
from parley.data.episode import Episode
from parley.data.sources.matches import StoredMatches
from parley.data.store import Matches
from parley.games.deal.game import Deal
from parley.report.agreement import read as read_ratings
from parley.report.estimates import two_way
from parley.run.config import ConfigError
from parley.system.files import InputError, read_json, read_jsonl
from parley.table import exports
from parley.table.events import Events
from parley.table.forgetting import forget
from parley.table.persons import Persons
from studied import AFTER, BEFORE, LEARNERS, Visitor, played, serve, study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for stage in (BEFORE, AFTER):
        played(tmp_path, stage, [LEARNERS] * 3)
    return tmp_path


def visited(run: Path) -> dict[str, str]:
    """Three people rate, vote and play; returns their ids by name."""
    ids: dict[str, str] = {}

    async def work(client, persons):
        for name, training in (("ann", True), ("bob", False), ("cid", True)):
            each = Visitor(client, persons, f"worker-{name}")
            ids[name] = each.person.id
            now = await each.enter(training)
            while now["step"] in ("rate", "vote"):
                vote = {"item": now["item"], "vote": "left"}
                now = await (each.rate(now, 6) if now["step"] == "rate" else each.send("vote", **vote))
            assert now["step"] == "play"

    async def later(client, persons):
        for name in ids:
            now = await Visitor(client, persons, f"worker-{name}").step()
            assert now["step"] == "done", now

    wanted = {"rate": 1, "vote": 2, "play": 2, "attention": []}
    serve(run, study(**wanted), work)
    seatings = [(one, "learner") for one in ("ann", "bob", "cid")] + [("ann", "cid"), ("bob", "learner")]
    names = {"learner": "learner", **{name: f"person:{own}" for name, own in ids.items()}}
    played(run, "table/play", [{"first": names[one], "second": names[other]} for one, other in seatings])
    serve(run, study(**wanted), later)
    return ids


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_was_done_and_nobody_s_name(run: Path) -> None:
    ids = visited(run)
    found = exports.tables([run / "table/study"], Matches(run / "table/play"))
    exports.write(run / "out", found)
    given = read_ratings([run / "out/ratings.jsonl"])
    assert {each.rater for each in given} == {*ids.values()} and len(given) == 6  # two seats each
    assert {each.item[0] for each in given} <= {each.id for each in Matches(run / AFTER)}
    assert [row["scores.goal"] for row in rows(run / "out/ratings.csv")] == ["6.0"] * 6
    assert len(rows(run / "out/votes.csv")) == 6
    paid = {row["person"]: row for row in rows(run / "out/persons.csv")}
    played_ = rows(run / "out/matches.csv")
    assert sorted(row["person"] for row in played_) == sorted([ids["ann"], ids["bob"], ids["cid"]] * 2)
    for person in ids.values():
        earned = sum(0.1 + 0.2 * float(row["payoff"]) for row in played_ if row["person"] == person)
        assert float(paid[person]["bonus"]) == pytest.approx(round(min(0.25 + earned, 9), 2))
        assert (paid[person]["base"], paid[person]["matches"], paid[person]["completed"]) == ("1.5", "2", "True")
    assert [paid[ids[name]]["training"] for name in ("ann", "bob", "cid")] == ["True", "False", "True"]
    written = "".join(path.read_text() for path in (run / "out").iterdir())
    assert "worker-" not in written and "token" not in written
    assert stat.S_IMODE((run / "table/persons.jsonl").stat().st_mode) == 0o600


def test_a_forgotten_person_is_gone_from_every_file(run: Path) -> None:
    ids = visited(run)
    own = {each.id: each for each in Matches(run / "table/play")}
    with open(run / "table/play/seatings.jsonl", "w") as file:
        for each in own.values():
            file.write(json.dumps({"match": each.id, "players": dict(each.players)}) + "\n")
    assert forget(run / "table", ids["ann"]) == "10 events and 2 matches were taken out"
    for path in (run / "table").rglob("*.jsonl"):
        assert ids["ann"] not in path.read_text(), path
    left = {each.id: each for each in Matches(run / "table/play")}
    assert left == {key: each for key, each in own.items() if f"person:{ids['ann']}" not in each.players.values()}
    assert len(left) == 3 and stat.S_IMODE((run / "table/persons.jsonl").stat().st_mode) == 0o600
    given_up = [row["match"] for row in read_jsonl(run / "table/play/seatings.jsonl") if "over" in row]
    assert {*given_up} == own.keys() - left.keys()
    found = exports.tables([run / "table/study"], left.values())
    assert [row["person"] for row in found["persons"]] == [ids["bob"], ids["cid"]]
    assert Persons(run / "table", ["WHO"]).join({"WHO": "worker-ann"})[0].id not in ids.values()
    with pytest.raises(InputError, match="nobody with the id"):
        forget(run / "table", ids["ann"])


def test_a_person_is_forgotten_whatever_the_parts_are_called(run: Path) -> None:
    ids = visited(run)
    for part, other in (("play", "bargains"), ("study", "poll")):
        (run / "table" / part).rename(run / "table" / other)
    assert forget(run / "table", ids["ann"]) == "10 events and 2 matches were taken out"
    assert all(ids["ann"] not in path.read_text() for path in (run / "table").rglob("*.jsonl"))


def test_only_what_everybody_at_the_table_allowed_says_so(run: Path) -> None:
    ids = visited(run)
    told = {}
    for each in exports.consented([run / "table/study"], Matches(run / "table/play")):
        consent = each.extra["consent"]
        there = {name for name, own in ids.items() if f"person:{own}" in each.players.values()}
        assert {own["person"] for own in consent.values()} == {ids[name] for name in there}
        assert all(own["version"] == "2" for own in consent.values())
        told[frozenset(there)] = all(own["training"] for own in consent.values())
    alike = {frozenset(["ann"]): True, frozenset(["bob"]): False, frozenset(["cid"]): True}
    assert told == {**alike, frozenset(["ann", "cid"]): True}


def test_figures_against_people_are_clustered_by_person_and_scenario(run: Path) -> None:
    ids = visited(run)
    matches = list(Matches(run / "table/play"))
    found = exports.against(matches)
    mine = [each for each in matches if each.players["second"] == "learner"]
    payoffs = [each.result.returns["second"] for each in mine]
    whom = [each.players["first"] for each in mine]
    assert found["learner"]["payoff"] == two_way(payoffs, whom, [each.scenario.cluster for each in mine])
    assert (found["learner"]["payoff"].n, found["people"]["payoff"].n) == (4, 5) and len(ids) == 3


def _allowed(episode: Episode) -> bool:
    return all(told["training"] for told in episode.extra["consent"].values())


def test_what_people_wrote_is_no_training_data_before_they_are_asked(run: Path) -> None:
    visited(run)
    assert not any(map(trainable, Matches(run / "table/play")))  # as the table stores them


def test_a_spreadsheet_computes_nothing_of_what_people_wrote(tmp_path: Path) -> None:
    exports.write(tmp_path, {"t": [{"a": "=1+1", "b": {"c": "@x", "d": -1.5}}]})
    assert rows(tmp_path / "t.csv") == [{"a": "'=1+1", "b.c": "'@x", "b.d": "-1.5"}]
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {"a": "=1+1", "b": {"c": "@x", "d": -1.5}}


def test_preferred_counts_ties_as_a_half_whatever_the_side() -> None:
    def vote(person: str, vote: str, left: str) -> dict[str, str]:
        return {"person": person, "vote": vote, "left": left, "second": "s", "cluster": f"c{person}"}

    votes = [vote("a", "left", "s"), vote("b", "right", "f"), vote("c", "tie", "f"), vote("d", "both_bad", "s")]
    found = exports.preferred([*votes, vote("e", "left", "f")])
    assert found is not None and found.mean == pytest.approx((1 + 1 + 0.5 + 0.5 + 0) / 5) and found.n == 5
    assert exports.preferred([]) is None


def test_who_took_two_studies_is_trained_on_where_both_allow_it(run: Path) -> None:
    for name, answers in (("a", {"ann": True, "bob": True}), ("b", {"ann": True, "bob": False})):
        for person, training in answers.items():
            asyncio.run(Events(run / name).add(person, "consent", version=name, training=training))
    played(run, "table/play", [{"first": "person:ann", "second": "person:bob"}])
    (episode,) = exports.consented([run / "a", run / "b"], Matches(run / "table/play"))
    assert {seat: own["training"] for seat, own in episode.extra["consent"].items()} == {"first": True, "second": False}
    assert episode.extra["consent"]["first"]["version"] == "a and b" and not trainable(episode)


def test_the_commands_compose() -> None:
    check(["task=people", "run=outputs/x", "task.forget=[ab12]"])
    check(["task=table", "run=outputs/x", "table.parts.play.payoffs=[self,comp]", "table.address_header=X-Real-IP"])
    for name in ("rating", "playing", "base"):
        check(["task=table", "run=outputs/x", f"+study@table.parts.study={name}"])


def test_the_task_writes_files_and_a_round_to_learn_from(run: Path) -> None:
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["task=people", "game=deal"])
    OmegaConf.save(config, run / "config.yaml")
    with pytest.raises(ConfigError, match="has no table yet"):
        people(config, run / "none", str(run), [])
    ids = visited(run)
    people(config, run / "one", str(run), [])
    for part, other in (("play", "bargains"), ("study", "poll")):  # what lies in a part tells its kind
        (run / "table" / part).rename(run / "table" / other)
    people(config, run / "two", str(run), [ids["ann"]])
    for out, count in (("one", 5), ("two", 3)):
        stored = list(Matches(run / out / "iter_001/play"))
        assert len(stored) == count and all(each.extra["consent"] for each in stored)
        with pytest.warns(UserWarning, match="without consent to training"):
            learned = StoredMatches([str(run / out)]).recorded(Deal(), "learner")
        assert {each.scenario.id for each in learned} == {each.scenario.id for each in stored if _allowed(each)}
        assert len(learned) == (3 if out == "one" else 1)
        with pytest.warns(UserWarning):
            alone = StoredMatches([str(run / out)], players=["human"]).recorded(Deal(), "me")
        there = {each.id.split("/", 2)[2]: {*each.extra["consent"]} for each in alone}
        assert there == {
            each.id.split("/", 2)[2]: {s for s, who in each.players.items() if who == "me"} for each in alone
        }
        figures = read_json(run / out / "figures.json")
        assert figures["learner, with people"]["payoff"]["n"] == (4 if out == "one" else 3)
        assert len(rows(run / out / "matches.csv")) == count + (out == "one")  # one match seats two people
    with pytest.raises(ConfigError, match="nobody with the id"):
        people(config, run / "three", str(run), [ids["ann"]])
