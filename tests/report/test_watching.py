"""The verdict on a run, the line of an iteration, and the list of runs."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from market import views
from parley.report.html import Report
from parley.report.line import line, next_steps
from parley.report.listing import runs, runs_table
from parley.report.rows import Measured, Row, Summary
from parley.report.run import summary as stored
from parley.report.verdict import verdicts
from parley.system.files import lock, write_json
from rich.console import Console


def figure(mean: float, half: float = 0.5, n: int = 40) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def summary(means: list[float], best: int, gain: dict | None = None, against: dict | None = None) -> Summary:
    rows = tuple(
        Row(
            at,
            at,
            {"learner": Measured("v", sampled={"score": figure(mean), "deal_rate": figure(0.5)})},
            {"play": 60.0},
        )
        for at, mean in enumerate(means)
    )
    return Summary(
        "deal", 3, 100.0, 90.0, best, "learner", "score", "start", {}, {"learner": gain} if gain else {},
        {"learner": {"score": against}} if against else {}, rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "word", "says"),
    [
        (summary([1, 5], 1, figure(4)), "better", "It learned: +4.00 ±0.50 in score in greedy self-play, iteration 1"),
        (summary([1, 5], 1, figure(0.2)), "unclear", "No gain beyond chance: +0.200 ±0.500"),
        (summary([1, 5], 1, figure(-4)), "worse", "It got worse: -4.00 ±0.50"),
        (summary([1, 5], 1, figure(4), figure(-0.1)), "unclear", "-0.100 ±0.500 in score against the start"),
        (summary([1, 5], 1), "unclear", "was not measured"),
        (summary([5, 1], 0), "worse", "5.00 ±0.50 at the start and 1.000 ±0.500 at the end; the start is kept"),
        (summary([5, 5.1], 0), "unclear", "No iteration was better"),
        (summary([5], 0), "unclear", "Nothing was learned"),
    ],
)
def test_the_verdict_says_whether_it_learned_got_worse_or_is_unclear(data, word, says):
    (verdict,) = verdicts(data)
    assert verdict.word == word and says in verdict.text


def test_the_line_of_an_iteration_has_the_figure_its_gain_and_the_time_that_is_left():
    rows = summary([10.65, 12.25, 12.25], 1).iterations
    told = [line(rows[: at + 1], 5, "learner", "sampled.score", "score") for at in range(3)]
    assert told == [
        "iteration 0/5  score 10.65 ±0.50  deal 0.50",
        "iteration 1/5  score 12.25 ±0.50 (+1.60)  deal 0.50  4 min 00 s left",
        "iteration 2/5  score 12.25 ±0.50 (+1.60)  deal 0.50  3 min 00 s left",
    ]


def begun(folder: Path, iterations: int = 2) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: deal\nseed: 3\niterations: {iterations}\n")
    return folder


def test_runs_are_listed_with_their_state_the_newest_first(tmp_path):
    finished = begun(tmp_path / "outputs/deal/a")
    write_json(finished / "summary.json", summary([1, 5], 1).to_json())
    (finished / "iter_001/learn").mkdir(parents=True)
    (finished / "iter_001/learn/stage.json").write_text("{}")
    stopped, job = begun(tmp_path / "outputs/deal/b"), begun(tmp_path / "outputs/deal/sweep/0")
    torn = begun(tmp_path / "outputs/deal/torn")
    begun(stopped / ".hydra")  # Hydra's copy is no run
    (torn / "config.yaml").write_text("name: [")
    for at, run in enumerate((torn, job, stopped, finished)):
        for path in run.rglob("*"):
            os.utime(path, (1e9 + at, 1e9 + at))
    with lock(job):
        os.utime(job / ".lock", (1e9, 1e9))
        found = runs([tmp_path / "outputs"])
    assert [(each.path, each.state) for each in found] == [
        (finished, "finished"), (stopped, "stopped"), (job, "running"), (torn, "unreadable"),
    ]  # fmt: skip
    assert (found[0].iterations, found[0].gain, found[1].iterations) == ("1/2", "+4.00", "0/2")
    with (console := Console(width=80)).capture() as shown:
        console.print(runs_table(found, 1e9 + 63))
    for words in ("1 min", "finished", "unreadable", "5.00 ±0.50", "score"):
        assert words in shown.get()


def test_a_folder_of_another_task_is_listed_as_that_task(tmp_path):
    played = begun(tmp_path / "outputs/deal/a")
    with (played / "config.yaml").open("a") as file:
        file.write("task: {_target_: parley.cli.tasks.training.play}\n")
    assert [(each.state, each.iterations) for each in runs([tmp_path / "outputs"])] == [("task=play", "–")]


def test_the_verdict_on_a_zero_sum_run_that_kept_its_start_reads_the_matches_against_the_start():
    data = summary([0, 0], 0, against=figure(0))
    versus = [{"start": {"score": figure(mean)}} for mean in (0, -4)]
    rows = [
        replace(row, policies={"learner": replace(row.policies["learner"], versus=each)})
        for row, each in zip(data.iterations, versus, strict=True)
    ]
    (verdict,) = verdicts(replace(data, iterations=tuple(rows)))
    assert verdict.word == "worse" and "score against the start" in verdict.text


def test_a_finished_run_says_what_can_be_done_next(make_run):
    run = make_run("a run", overrides=("experiment=market_tiny", "seed=3"))
    steps = dict(next_steps(run, "sampled/2/s0", ["buyer", "seller"]))
    assert steps["report"] == f"{run}/report/index.html"
    assert shlex.split(steps["the worst match"]) == ["parley", "task=show", f"run={run}", "match=sampled/2/s0"]
    assert shlex.split(steps["play against it"])[:4] == ["parley", "task=play", f"run={run}", "players.buyer=human"]
    assert [what for what, _ in next_steps(run, None, [])] == ["report"]


def test_what_can_be_done_next_with_a_game_of_ones_own_begins_as_the_run_did(tmp_path, monkeypatch):
    words = ["-cd", "my conf", "experiment=mine", "--config-dir=conf", "hydra.searchpath=[file://conf]", "seed=3"]
    monkeypatch.setattr("sys.argv", ["/lib/parley/__main__.py", *words])
    steps = dict(next_steps(tmp_path, "m", ["buyer"]))
    begin = ["python", "-m", "parley", "-cd", "my conf", "--config-dir=conf", "hydra.searchpath=[file://conf]"]
    for step in ("the worst match", "play against it"):
        words = shlex.split(steps[step])
        assert words[:7] == begin and words[7].startswith("task=") and words[8] == f"run={tmp_path}"
    monkeypatch.setattr("sys.argv", ["/bin/parley"])  # the default run
    assert shlex.split(dict(next_steps(tmp_path, "m", []))["the worst match"])[:2] == ["parley", "task=show"]


def test_the_worst_match_is_one_that_the_report_shows(make_run):
    report = Report(make_run(scores={f"s{at}": float(at) for at in range(9)}), None, views)
    report.write(stored(report.run))
    assert report.worst(0) == "sampled/0/s0" and report.worst(7) is None


def test_a_listing_reads_no_aliases_and_stands_files_that_go_away(tmp_path, monkeypatch):
    many = "".join(f"a{at + 1}: &a{at + 1} [{', '.join([f'*a{at}'] * 9)}]\n" for at in range(30))
    for name, text in (("bomb", f"a0: &a0 [x]\n{many}name: *a30\nseed: 1\niterations: 1\n"), ("busy", "name: x\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "busy" / ".metrics.tmp").write_text("")
    lstat = os.lstat

    def gone(path):
        if str(path).endswith(".tmp"):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr("parley.report.listing.os.lstat", gone)
    assert [each.state for each in runs([tmp_path])] == ["unreadable", "unreadable"]
