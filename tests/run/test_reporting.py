"""The report of a run at work: after each iteration while it is cheap, and where the run stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from market import episode, summary, views
from parley.credit import NothingKept
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Result
from parley.report.rows import Summary
from parley.run import reporting as module
from parley.run import stages
from parley.run.reporting import Reporting, reporting

GAIN = {"improvement_greedy": {"learner": {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 9, "clusters": 9}}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Any:
    monkeypatch.setattr(module, "replay", lambda game, found: SimpleNamespace(views=views(found)))
    noted: list[str] = []
    return SimpleNamespace(
        out=tmp_path,
        game=SimpleNamespace(facts=None),
        config=SimpleNamespace(iterations=3, eval=SimpleNamespace(transcripts=2, report=1.0)),
        progress=SimpleNamespace(note=noted.append, noted=noted),
        episodes=lambda name: Matches(tmp_path / name),
    )


def known(iterations: int) -> Summary:
    return replace(Summary.from_json(summary(1, 1.5, iterations, True)), improvement_greedy={})


def page(run: Any) -> str:
    return (run.out / "report" / "index.html").read_text(encoding="utf-8")


def test_it_is_written_after_each_iteration(run):
    report, asked = Reporting(run), []
    report.iteration(known(1), lambda: asked.append(1) or {})
    assert "It is at work: 0 of 3 iterations are done." in page(run) and "It learned" not in page(run)
    report._began -= 1e6  # much CPU time has passed
    report.iteration(known(2), lambda: asked.append(2) or GAIN)
    assert "It is at work: 1 of 3 iterations are done." in page(run) and "It learned: +1.000 ±0.500" in page(run)
    report.iteration(known(4), lambda: asked.append(4) or GAIN)  # the last: what comes at the end has it
    assert asked == [1, 2] and report.times == 2
    report.finished(replace(known(4), **GAIN))
    assert "at work" not in page(run) and "It learned" in page(run) and report.times == 3


def test_it_is_left_out_while_it_would_cost_more_than_its_share(run):
    run.config.eval.report = 1e-9
    report, asked = Reporting(run), []
    for count in (1, 2, 3):
        report.iteration(known(count), lambda: asked.append(1) or {})
    assert len(asked) == 1 and "0 of 3" in page(run)


def test_a_run_in_which_credit_kept_nothing_tells_how_its_matches_ended(run):
    stage = run.out / "iter_001" / "play"
    aborted = Result({}, "abort", marks={"buyer.1": {"retry": "prefix"}})

    def play() -> None:
        with EpisodeStore(stage) as store:
            for at in range(5):
                store.append(replace(episode(f"m{at}", f"s{at}", 0.0), result=aborted))
            store.append(episode("m5", "s5", 2.0))

    stages.stage(stage, {}, play)
    with pytest.raises(NothingKept), reporting(run) as report:
        report.iteration(known(1), dict)
        raise NothingKept("credit kept nothing to train on: lower the bar\nscore 0: 12 logs")
    text = page(run)
    assert "It stopped in iteration 1: credit kept nothing to train on: lower the bar." in text
    assert "score 0: 12 logs" in text and "<b>abort</b> 5, <b>deal</b> 1" in text
    assert "<b>prefix</b> 5, <b>no tag</b> 1" in text
    assert "match m0, scenario s0" in text and text.count("match m") == 1  # one transcript
    assert run.progress.noted == [f"report: {run.out / 'report' / 'index.html'}"]


def test_nothing_is_written_before_anything_is_known_and_no_fault_of_the_report_hides_the_error(run, monkeypatch):
    with pytest.raises(ValueError, match="the reason"), reporting(run):
        raise ValueError("the reason")
    assert not (run.out / "report").exists()
    with pytest.raises(ValueError, match="the reason"), reporting(run) as report:
        report.iteration(known(1), dict)
        monkeypatch.setattr(report.report, "write", lambda *_: 1 / 0)
        raise ValueError("the reason")
    assert run.progress.noted == ["the report could not be written: division by zero"]


def test_a_run_that_was_asked_to_stop_says_how_it_goes_on(run):
    with pytest.raises(SystemExit), reporting(run) as report:
        report.iteration(known(2), dict)
        raise SystemExit(75)
    assert "It stopped in iteration 2: it was asked to stop; with resume=auto" in page(run)
