"""Progress without a terminal (plain lines at a sane rate) and on one (bars, and one line left behind)."""

from __future__ import annotations

import io

import pytest
from parley.report.progress import Progress, duration, rate
from rich.console import Console


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> tuple[Progress, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return Progress(Console(file=out, force_terminal=False, width=40), clock), out, clock


def test_plain_lines_come_by_time_and_by_tenths_and_never_more_often():
    progress, out, clock = plain()
    with progress, progress.stage("play", 1000, "games") as stage:
        for _ in range(1000):
            clock.now += 0.2  # 200 s in all, 20 for a tenth
            stage.advance(tokens=50, kept=1.5)
    lines = out.getvalue().splitlines()
    assert lines[0] == "play: 100/1,000 games, 5 games/s, 250 tokens/s, kept 1.5, 3 min 00 s left"
    assert len(lines) == 10
    assert lines[-1] == "play: 1,000 games in 3 min 20 s, 5 games/s, 250 tokens/s, kept 1.5"


def test_a_fast_stage_leaves_one_line():
    progress, out, clock = plain()
    with progress, progress.stage("learn", 50, "steps") as stage:
        for step in range(50):
            clock.now += 0.01
            stage.advance(loss=1 / (step + 1))
    assert out.getvalue() == "learn: 50 steps in 0.5 s, 100 steps/s, loss 0.02\n"


def test_a_slow_stage_of_unknown_length_speaks_every_minute():
    progress, out, clock = plain()
    with progress, progress.stage("read", None, "lines") as stage:
        for _ in range(12):
            clock.now += 12
            stage.advance(3)
    assert out.getvalue().splitlines() == [
        "read: 15 lines, 0.25 lines/s",
        "read: 30 lines, 0.25 lines/s",
        "read: 36 lines in 2 min 24 s, 0.25 lines/s",
    ]


def test_lines_of_evaluation_stand_in_the_log_alone_where_there_is_no_terminal(tmp_path):
    out, clock = io.StringIO(), Clock()
    progress = Progress(Console(file=out, force_terminal=False, width=40), clock, tmp_path / "log.txt")
    with progress:
        for name in ("iter_001/play", "iter_001/eval/sampled"):
            with progress.stage(name, 2, "games") as stage:
                stage.advance(2)
    assert out.getvalue().startswith("iter_001/play: 2 games") and "eval" not in out.getvalue()
    assert "iter_001/eval/sampled: 2 games" in (tmp_path / "log.txt").read_text()


def test_a_stage_that_fails_says_where():
    progress, out, clock = plain()
    with pytest.raises(OSError), progress, progress.stage("play", 10, "games") as stage:
        clock.now += 1
        stage.advance(3)
        raise OSError
    assert "play: stopped after 3/10 games, 1.0 s" in out.getvalue()


def test_a_terminal_gets_bars_and_keeps_one_line_per_stage():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with Progress(console) as progress:
        with progress.stage("play [bold]", 4, "games") as stage:
            stage.advance(4, word="[red]")
        progress.note("[kept] 3")
    shown = out.getvalue()
    assert (
        "0/4 games" in shown and "games" not in shown.rpartition("games/s")[2]
    )  # the bar is gone once the stage is over
    assert "play [bold]: 4 games in" in shown and "word [red]" in shown and "[kept] 3" in shown


def test_a_quiet_console_is_silent():
    out = io.StringIO()
    with Progress(Console(file=out, quiet=True)) as progress, progress.stage("play", 1, "games") as stage:
        stage.advance()
        progress.note("x")
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.97, "1 min 00 s"),
        (192.2, "3 min 12 s"),
        (3600, "1 h 00 min"),
        (7530, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0.4213, "0.421"), (85.21, "85.2"), (5210, "5.2k"), (123_456, "123k")])
def test_rate(value, text):
    assert rate(value) == text


def test_what_an_earlier_process_did_counts_and_says_nothing_of_the_speed():
    progress, out, clock = plain()
    with progress, progress.stage("learn", 100, "steps") as stage:
        stage.found(80)
        for _ in range(10):
            clock.now += 20
            stage.advance()
    lines = out.getvalue().splitlines()
    assert lines[0] == "learn: 81/100 steps, 0.05 steps/s, 6 min 20 s left"
    assert lines[-1] == "learn: 90 steps in 3 min 20 s, 0.05 steps/s"


def test_lines_that_stay_and_the_error_that_ended_it_stand_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "t0p-secret")
    console, clock = Console(file=io.StringIO(), force_terminal=False, width=40), Clock()
    with pytest.raises(ValueError, match="no luck"), Progress(console, clock, tmp_path / "log.txt") as progress:
        with progress.stage("play", 100, "games") as stage:
            for _ in range(100):
                clock.now += 1
                stage.advance()
        progress.note("iteration 1/2  score [b]3[/b]")
        raise ValueError("no luck with t0p-secret")
    lines = [line.partition("  ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines[0].startswith("play: 100 games in 1 min 40 s")
    assert lines[1] == "iteration 1/2  score [b]3[/b]"
    assert lines[2].startswith("Traceback") and lines[-1] == "ValueError: no luck with $SOME_API_KEY"
