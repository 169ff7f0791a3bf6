"""The closing table, the sweep's table and paired comparisons, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from parley.report import compare as comparing
from parley.report.run import figure, number, summary
from parley.report.table import Column, _laid, benchmark_table, by_setting, run_table, sparkline, sweep_table
from rich.console import Console


def shown(table) -> str:
    out = io.StringIO()
    Console(file=out, width=220, color_system=None).print(table)
    return out.getvalue()


def test_the_closing_table_holds_every_iteration_and_marks_the_kept_one(make_run):
    text = shown(run_table(summary(make_run())))
    lines = [line.split() for line in text.splitlines()]
    row = next(line for line in lines if "2" in line and "*" in line)
    assert row[row.index("*") + 2 :: 3][:1] == ["7.10"] or "7.10" in row
    for words in (
        "4.10 ±0.20",
        "5.10 ±0.20",
        "3.60 ±0.20",
        "0.400 ±0.030",
        "demos",
        "5.50 ±0.20",
        "1 min 32 s",
        "88 CPU-s",
    ):
        assert words in text, words
    assert sum("*" in line for line in lines) == 2  # the kept row, and the caption that explains the mark


def test_a_run_that_only_imitated_has_a_table(make_run):
    text = shown(run_table(summary(make_run(iterations=1, demonstrators=False))))
    assert "0 *" in text and "demos" not in text


def test_the_distance_to_a_known_source_has_a_column(make_run):
    run = make_run()
    assert "kl to the" not in shown(run_table(summary(run)))
    data = json.loads((run / "summary.json").read_text())
    distance = {"kl": {"mean": 2.5, "low": 2.25, "high": 2.75}}
    data["iterations"][-1]["policies"]["learner"]["demonstrations"] = distance
    (run / "summary.json").write_text(json.dumps(data))
    text = shown(run_table(summary(run)))
    assert "kl to the" in text and "2.50 ±0.25" in text and "–" in text


def test_tables_fit_a_terminal_and_break_no_word(make_run):
    run = make_run()
    data = json.loads((run / "summary.json").read_text())
    for row in data["iterations"]:
        own = row["policies"]["learner"]
        own["sampled"] |= {f"a_metric_with_a_long_name_{at}_rate": own["sampled"]["joint"] for at in range(2)}
        own["versus"] |= {f"opponent {at}": own["sampled"] for at in range(4)}
    (run / "summary.json").write_text(json.dumps(data))
    text = shown(run_table(summary(run)))
    assert max(map(len, text.splitlines())) <= 80
    assert "sampled" in text and "greedy" in text and "time" in text and "a_metric" not in text
    assert "joint ▁▅█" in text


def test_a_zero_sum_game_is_shown_against_the_start_and_not_by_its_zeros(make_run):
    run = make_run()
    data = json.loads((run / "summary.json").read_text())
    for row in data["iterations"]:
        for mode in ("sampled", "greedy"):
            row["policies"]["learner"][mode]["joint"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
    (run / "summary.json").write_text(json.dumps(data))
    text = shown(run_table(summary(run)))
    assert "0.000 ±0.000" not in text and "versus start" in text and "3.60 ±0.20" in text and "deal" in text


def test_a_sparkline_has_a_mark_for_each_value():
    assert sparkline([0.0, 7.0, None, 3.5]) == "▁█ ▅" and sparkline([2.0, 2.0]) == "▁▁" and sparkline([None]) == ""


def test_figures_are_written_with_the_places_that_their_intervals_deserve():
    assert figure({"mean": 12.134, "low": 11.95, "high": 12.318}) == "12.13 ±0.18"
    assert figure({"mean": 0.95123, "low": 0.94023, "high": 0.96223}) == "0.951 ±0.011"
    assert figure({"mean": 0.9, "low": 0.7, "high": 1.0}) == "0.900 [0.700, 1.000]"
    assert figure({"mean": 0.9, "low": None, "high": None}) == "0.900"
    assert figure({"mean": 0.9, "low": float("-inf"), "high": float("inf")}) == "0.900"
    assert figure(None) == figure({}) == "–"
    assert [number(value) for value in (1024, 52120.0, 7.55, 0.00123, 123.456, 1234.56, None, True, float("nan"))] == [
        "1,024", "52,120", "7.550", "0.001", "123.46", "1,235", "–", "True", "nan",
    ]  # fmt: skip


@pytest.fixture
def jobs(make_run) -> list[Path]:
    """Two settings with three seeds each; the gain an iteration is 1.5 or 2."""
    made = []
    for keep, gain in (("above_avg", 1.5), ("nonzero", 2.0)):
        for seed in (1, 2, 3):
            words = ("experiment=market_tiny", f"objective.credit.keep={keep}", f"seed={seed}")
            made.append(make_run(f"{len(made)}", seed, gain + 0.1 * seed, overrides=words, scores={"a": 1.0, "b": 3.0}))
    return made


def test_the_sweep_groups_by_everything_but_the_seed(jobs):
    groups = by_setting(jobs)
    assert {label: len(members) for label, members in groups.items()} == {
        "keep=above_avg": 3,
        "keep=nonzero": 3,
    }
    text = shown(sweep_table(jobs))
    # above_avg, kept: 4 + 2 (1.5 + 0.1 s) + 0.1 s for s = 1, 2, 3: 7.3, 7.6, 7.9, standard deviation 0.3; the start
    # 4.1, 4.2, 4.3
    assert "7.600 ±0.300" in text and "4.200 ±0.100" in text and "8.600 ±0.300" in text
    assert "1, 2, 3" in text


def test_a_sweep_counts_what_is_lost_and_refuses_nothing_at_all(jobs, tmp_path):
    (jobs[1] / "summary.json").unlink()
    text = " ".join(shown(sweep_table(jobs)).split())
    assert "1 of 6 jobs have no summary" in text and "8.600 ±0.300" in text
    assert "7.600 ±0.424" in text  # of two seeds
    with pytest.raises(FileNotFoundError, match="none of the 1 jobs"):
        sweep_table([tmp_path / "nothing"])


def test_one_job_per_setting_shows_no_spread(make_run):
    text = shown(sweep_table([make_run(seed=4)]))
    assert "4.400" in text and "nan" not in text


def test_differences_by_seed(jobs):
    rows = {(row.metric, row.mode): row for row in comparing.compare(jobs, ["joint"])}
    row = rows["joint", "sampled"]
    assert (row.by, row.difference.n) == ("seed", 3)
    assert row.before_mean == pytest.approx(7.6) and row.after_mean == pytest.approx(8.6)
    # every seed gains exactly 2 * 0.5, so the interval is a point
    assert (row.difference.mean, row.difference.low, row.difference.high) == pytest.approx((1.0, 1.0, 1.0))
    assert set(rows) == {("joint", "sampled"), ("joint", "greedy")}


def test_differences_by_shared_scenario(make_run):
    before = make_run(
        "a", gain=0.0, iterations=1, overrides=("x=1",), scores={"s1": 1.0, "s2": 2.0, "s3": 4.0, "only here": 100.0}
    )
    after = make_run(
        "b", gain=0.0, iterations=1, overrides=("x=2",), scores={"s1": 2.0, "s2": 4.0, "s3": 7.0, "only there": 0.0}
    )
    row = next(row for row in comparing.compare([before, after], ["joint"]) if row.mode == "greedy")
    # joint is 1.5 times the score: gains 1.5, 3, 4.5; standard error 1.5 / sqrt(3), t(2) about 4.3 (a series, within 5
    # %)
    assert (row.by, row.difference.n, row.difference.mean) == ("scenario", 3, pytest.approx(3.0))
    assert row.difference.high - 3.0 == pytest.approx(4.303 * 1.5 / 3**0.5, rel=0.05)
    assert (row.before_mean, row.after_mean) == pytest.approx((3.5, 6.5))


def test_a_run_against_its_own_start(make_run):
    run = make_run(gain=1.0)
    rows = comparing.compare([f"{run}@0", run])
    joint = next(row for row in rows if (row.metric, row.mode) == ("joint", "greedy"))
    assert joint.difference.mean == pytest.approx(3.0) and joint.difference.n == 9  # two iterations, 1.5 each
    assert joint.before.endswith("@0") and joint.after.endswith("@2")


def test_what_cannot_be_compared_is_refused(make_run):
    a, b = make_run("a", overrides=("x=1",), scores={"s": 1.0}), make_run("b", overrides=("x=2",), scores={"t": 1.0})
    with pytest.raises(ValueError, match="one setting only"):
        comparing.compare([a])
    with pytest.raises(ValueError, match="no shared scenario"):
        comparing.compare([a, b])
    with pytest.raises(ValueError, match=r"no iteration 9; there are 0, 1, 2"):
        comparing.compare([f"{a}@9", b])


def test_csv_and_latex_hold_the_same_rows(jobs):
    rows = comparing.compare(jobs)
    read = list(csv.DictReader(io.StringIO(comparing.as_csv(rows))))
    assert len(read) == len(rows) == 6
    assert read[0]["after"] == "keep=nonzero" and float(read[0]["difference"]) == pytest.approx(1.0)
    text = comparing.as_latex(rows)
    assert text.count(r" \\") == 7
    assert r"deal\_rate" in text and "+1.000 $\\pm$0.000" in text
    assert "3 pairs of seeds" in shown(comparing.as_tables(rows)[0])


@pytest.mark.parametrize(("width", "kept"), [(10, "abcde"), (20, "abe"), (70, "abe")])
def test_a_table_keeps_its_first_two_columns_and_the_time(width, kept):
    columns = [Column(name * width, ["1"]) for name in "abcde"]
    heads = [str(column.header)[:1] for column in _laid("title", columns, [""]).columns]
    assert heads == list(kept)


def test_a_benchmarks_table_has_a_row_for_each_task_and_metric():
    figures = {"copa": {"acc": {"mean": 0.5, "low": 0.4, "high": 0.6}}}
    text = shown(benchmark_table("benchmark", {"start": figures, "kept": {}}))
    row = next(line for line in text.splitlines() if "acc" in line)
    assert row.index("copa") < row.index("acc") < row.index("0.50") and "kept" in text


def test_latex_escapes_everything_that_it_would_obey():
    assert comparing.latex(r"a_b & 50% #1 {x} $y^2~ \input{/etc}") == (
        r"a\_b \& 50\% \#1 \{x\} \$y\textasciicircum{}2\textasciitilde{} \textbackslash{}input\{/etc\}"
    )


def test_a_broken_summary_is_named(make_run):
    run = make_run()
    (run / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        summary(run)
    (run / "summary.json").write_text(json.dumps({"iterations": []}))
    with pytest.raises(ValueError, match="lists no iterations"):
        summary(run)
    (run / "summary.json").write_text(json.dumps({"iterations": [{"iteration": 0}]}))
    with pytest.raises(ValueError, match=r"is no summary \(lacks the key 'snapshot'\); resume="):
        summary(run)
