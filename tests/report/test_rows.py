"""The typed rows of a summary: they come back as they went, and a summary of 0.1.0 is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from market import summary as made
from parley.report.rows import Measured, Row, Summary
from parley.report.run import summary

OLD = Path(__file__).parents[1] / "fixtures/run_0_1_0"


def test_a_summary_comes_back_as_it_went():
    data = Summary.from_json(made(1, 0.5, 3, True))
    again = Summary.from_json(json.loads(json.dumps(data.to_json())))
    assert again == data and again.policies == ("learner",) and again.kept is again.iterations[2]
    assert data.to_json()["iterations"][1]["policies"]["learner"]["sampled"]["joint"]["mean"] == 4.6


def test_a_summary_of_the_first_layout_is_read():
    old, raw = summary(OLD), json.loads((OLD / "summary.json").read_text())
    assert old.policies == ("learner",) and old.policy == "learner"
    for row, before in zip(old.iterations, raw["iterations"], strict=True):
        measured = row.policies["learner"]
        for name in ("validation", "sampled", "greedy", "versus", "versus_greedy", "language", "demonstrations"):
            assert getattr(measured, name) == before[name]
        assert row.seconds == before["seconds"] and row.round == row.iteration == before["iteration"]
    assert old.improvement_greedy == {"learner": raw["improvement_greedy"]}


def test_a_figure_is_found_by_its_path_and_nothing_else_is():
    row = Row.from_json(made(1, 0.5, 2, False)["iterations"][1]).policies["learner"]
    assert row.figure("sampled.joint")["mean"] == 4.6 and row.figure("versus.start.joint")["mean"] == 4.1
    for path in ("snapshot", "learn.loss", "sampled.nothing", "figure.x"):
        with pytest.raises(KeyError):
            row.figure(path)


def test_what_a_later_version_adds_to_a_row_is_passed_over():
    assert Measured.from_json({"snapshot": "a", "sampled": {}, "dreams": 1}) == Measured("a")
