"""Scorers at work: functions and judges, after rounds and evaluations; cut off and resumed; missing is not 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.backends.openai import OpenAIBackend, served
from parley.credit import FilteredBC
from parley.data.judge import RubricJudge
from parley.data.scorer import ScoredMatches
from parley.data.store import EpisodeStore, Matches
from parley.play.pairing import fixed
from parley.play.seats import Opponent
from parley.report.progress import Progress
from parley.run.config import ConfigError
from parley.run.contents import find_match
from parley.run.evaluation import Evaluation
from parley.run.parts import Parts
from parley.run.run import Run, figures
from parley.run.scoring import Scoring
from parley.run.stages import StageChanged
from parley.system.files import InputError
from rich.console import Console
from tables import Bids

from openai_server import Server, completion

STAGE = "iter_001/play"


class Game(Bids):
    """Bids whose script sits in the learner's place."""

    def scripts(self) -> dict[str, Any]:
        return {"learner": super().scripts()["random"], "other": super().scripts()["random"]}


def verdict_of(text: str) -> dict[str, dict[str, int]] | None:
    """What the judge of these tests says in the end of what it read; None where it never gives a verdict."""
    lot = blake2b(text.encode(), digest_size=4).digest()
    return None if lot[0] % 5 == 0 else {seat: {"wit": lot[at] % 11} for at, seat in enumerate(("ann", "bob"), 1)}


def talk(body: dict[str, Any]) -> dict[str, Any]:
    """Its first reply is no verdict for one match in two."""
    text = body["messages"][1]["content"]
    said, lot = verdict_of(text), blake2b(text.encode(), digest_size=4).digest()[3]
    silent = said is None or (lot % 2 and len(body["messages"]) == 2)
    return completion(body, "no comment" if silent else json.dumps(said))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(talk)
    yield found
    found.close()


def run(out: Path, server: Server | None = None, scorer: Any = None, *words: str, **judge: Any) -> Run:
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose("config", ["scorer=judge", "scorer.player=judge", "play.in_flight=8", *words])
    opponents = {}
    if server is not None:
        backend = partial(OpenAIBackend, url=server.url, concurrency=4, backoff_s=0.01, ledger=out / "judge.jsonl")
        opponents["judge"] = Opponent(served("some-model"), backend)
    scorer = scorer or RubricJudge("judge", "Judge.", {"wit": {"low": 0, "high": 10}}, **judge)
    none: Any = None
    parts = Parts(config, Game(), none, none, {"learner": none}, none, None, scorer, opponents)
    return Run(parts, out, Progress(Console(quiet=True)))


def play(made: Run, name: str = STAGE) -> Run:
    players = {"ann": "learner", "bob": "other"}
    seatings = fixed(made.game, made.game.scenarios(count=20), players, 5, name, 2)
    made.stage(name, {}, lambda: made.play(name, seatings, figures))
    return made


def scores(made: Run, name: str = STAGE) -> dict[str, Any]:
    rows = (made.out / name / "score/scores.jsonl").read_text().splitlines()
    return {row["id"]: row["scores"] for row in map(json.loads, rows)}


def test_a_judge_reads_every_match_and_what_it_does_not_say_is_missing(tmp_path: Path, server: Server) -> None:
    made = play(run(tmp_path, server))
    found = Scoring(made).score(STAGE)["learner"]
    said = scores(made)
    verdicts = Matches(tmp_path / STAGE / "score")
    assert len(said) == len(verdicts) == 40 and 0 < sum(not each for each in said.values()) < 40
    for each in verdicts:
        expected = verdict_of(each.scenario.data["text"] + "\n\n" + made_question(made))
        named = {"wit": {seat: float(one["wit"]) for seat, one in expected.items()}} if expected else {}
        assert said[each.scenario.data["match"]] == named
    given = [each["wit"]["ann"] for each in said.values() if each]  # the learner's seat
    assert found["wit"]["mean"] == pytest.approx(sum(given) / len(given), abs=1e-6) and found["wit"]["n"] == len(given)
    assert found["scored_rate"]["mean"] == pytest.approx(len(given) / 40) and set(found) == {"wit", "scored_rate"}


def made_question(made: Run) -> str:
    return made.parts.scorer.rubric.ask(["ann", "bob"])  # type: ignore[union-attr]


@pytest.mark.parametrize("cuts", [(3, 9), (1, 2, 25)])
def test_a_judge_that_is_cut_off_goes_on_and_nothing_recorded_is_asked_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...]
) -> None:
    whole = play(run(tmp_path / "whole", server))
    Scoring(whole).score(STAGE)
    ledger, folder = tmp_path / "cut/judge.jsonl", tmp_path / "cut" / STAGE / "score"
    had: list[tuple[int, set[str]]] = []  # lines of the ledger at each cut, and the requests whose replies are recorded
    server.faults = ["500", "429 0.01", "500"]
    append = EpisodeStore.append
    for cut in cuts:
        stored = 0

        def stop(store: EpisodeStore, episode: Any, cut: int = cut) -> None:
            nonlocal stored
            stored += 1
            if stored == cut and store.folder.name == "score":
                raise KeyboardInterrupt  # the verdict came, and was not stored
            append(store, episode)

        made = play(run(tmp_path / "cut", server))
        monkeypatch.setattr(EpisodeStore, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            Scoring(made).score(STAGE)
        monkeypatch.undo()
        had.append((len(ledger.read_text().splitlines()), recorded(folder)))
    made = play(run(tmp_path / "cut", server))
    Scoring(made).score(STAGE)
    assert scores(made) == scores(whole)
    assert list(Matches(tmp_path / "cut" / STAGE / "score")) == list(Matches(tmp_path / "whole" / STAGE / "score"))
    assert not list(folder.glob("open-*")) and len(had[-1][1]) > cuts[-1]
    booked = [json.loads(line).get("for") for line in ledger.read_text().splitlines()]
    assert all(recorded_then.isdisjoint(booked[lines:]) for lines, recorded_then in had)


def recorded(folder: Path) -> set[str]:
    """The requests whose replies are stored, or stand in the journal."""
    journal = [json.loads(line) for line in (folder / "open-0.jsonl").read_text().splitlines()]
    stored = {f"{each.id}/{turn.request}" for each in Matches(folder) for turn in each.turns}
    return stored | {f"{each['match']}/{each['turn']['request']}" for each in journal}


def test_a_scored_stage_is_not_scored_again_and_another_scorer_is_another_stage(tmp_path: Path, server: Server) -> None:
    Scoring(play(run(tmp_path, server))).score(STAGE)
    asked = len(server.asked)
    Scoring(run(tmp_path, server)).score(STAGE)
    assert len(server.asked) == asked
    with pytest.raises(StageChanged):
        Scoring(run(tmp_path, server, None, "scorer.repeats=2")).score(STAGE)


def test_repeats_are_averaged(tmp_path: Path) -> None:
    judge = RubricJudge("dice", "Judge.", {"wit": {"low": 0, "high": 10}}, repeats=3)
    made = play(run(tmp_path, None, judge))
    Scoring(made).score(STAGE)
    verdicts = list(Matches(tmp_path / STAGE / "score"))
    assert len(verdicts) == 120
    for match, said in scores(made).items():
        three = [json.loads(each.turns[0].text) for each in verdicts if each.scenario.data["match"] == match]
        assert len(three) == 3
        for seat in ("ann", "bob"):
            assert said["wit"][seat] == pytest.approx(sum(each[seat]["wit"] for each in three) / 3)


def test_a_verdict_is_found_by_its_id(tmp_path: Path) -> None:
    made = play(run(tmp_path, None, RubricJudge("dice", "Judge.", {"wit": {"low": 0, "high": 10}})))
    Scoring(made).score(STAGE)
    OmegaConf.save(made.config, tmp_path / "config.yaml")
    stored = next(iter(Matches(tmp_path / STAGE / "score")))
    assert find_match(tmp_path, stored.id) == (stored, True)
    judged = stored.scenario.data["match"]
    assert find_match(tmp_path, judged) == (Matches(tmp_path / STAGE)[judged], False)
    with pytest.raises(ConfigError, match="no such match"):
        find_match(tmp_path, "nowhere")


def test_a_scorer_without_any_score_ends_the_run_and_one_score_does_not(tmp_path: Path) -> None:
    none = play(run(tmp_path / "none", None, lambda episode: {}))
    with pytest.raises(InputError, match="no score to any of the 40 matches"):
        Scoring(none).score(STAGE)
    assert not (tmp_path / "none" / STAGE / "score/stage.json").exists()
    first = next(iter(Matches(tmp_path / "none" / STAGE))).id
    one = play(run(tmp_path / "one", None, lambda episode: {"wit": {"ann": 4.0}} if episode.id == first else {}))
    found = Scoring(one).score(STAGE)["learner"]
    assert (found["wit"]["mean"], found["wit"]["n"]) == (4.0, 1) and found["scored_rate"]["mean"] == 1 / 40


def test_evaluation_is_scored_as_rounds_are_and_its_differences_are_paired(tmp_path: Path) -> None:
    """The seats, seeds and words of both iterations are the same: so is every score."""
    made = run(tmp_path, None, lambda episode: {"length": {seat: float(len(episode.turns)) for seat in ("ann", "bob")}})
    names = [f"iter_00{number}/eval/greedy" for number in (0, 1)]
    found = [Scoring(play(made, name)).score(name)["learner"] for name in names]
    episodes = [list(Matches(tmp_path / name)) for name in names]
    assert [replace(each, id="") for each in episodes[0]] == [replace(each, id="") for each in episodes[1]]
    assert {each.id.split("/")[0] for each in episodes[1]} == {"iter_001"}
    turns = [len(each.turns) for each in episodes[0]]
    assert found[0] == found[1] and found[0]["length"]["mean"] == pytest.approx(sum(turns) / len(turns))
    gained = Evaluation(made).improvement(1, "length")["learner"]
    assert (gained["mean"], gained["n"]) == (0.0, 20)


def test_credit_leaves_out_what_has_no_score(tmp_path: Path) -> None:
    from test_credit import ME, episode

    given = {"m1": 1.0, "m2": 5.0, "m4": 3.0}
    with EpisodeStore(tmp_path) as store:
        for number in range(1, 6):
            store.append(episode(f"m{number}", {"a": 9.0, "b": 9.0}, players={"a": ME, "b": "script"}))
    rows = [{"id": f"m{n}", "scores": {"wit": {"a": given[f"m{n}"]}} if f"m{n}" in given else {}} for n in range(1, 6)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for keep, kept in (("above_avg", ["m2"]), ("above_group", ["m2"]), ("nonzero", ["m1", "m2", "m4"])):
        credited = FilteredBC(keep, score="wit")(ScoredMatches(tmp_path, tmp_path / "scores.jsonl"), ME)
        table = {each.match: each for each in credited.table}
        assert [match for match, each in table.items() if each.kept] == kept
        assert [(table[match].why, table[match].score) for match in ("m3", "m5")] == [("no score", None)] * 2
        assert keep == "nonzero" or table["m1"].bar == 3.0  # the mean of those that there are
        assert "2 no score" in credited.text()
