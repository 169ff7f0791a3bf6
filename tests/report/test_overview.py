"""The page of a sweep: settings compared with the best, seeds and means, a standalone figure."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from market import figure
from parley.report import html, overview
from parley.report.figures import STYLES, learning
from parley.report.settings import over, settings
from parley.report.sweep import SweepTable
from parley.report.table import by_setting
from test_html import Page


def jobs(make_run, gains: dict[str, float], seeds=(1, 2, 3)) -> list[Path]:
    made = []
    for value, gain in gains.items():
        for seed in seeds:
            words = ("experiment=market_tiny", f"learner.optimizer.lr={value}", f"seed={seed}")
            made.append(make_run(str(len(made)), seed, gain + 0.1 * seed, overrides=words, scores={"a": 1.0}))
    return made


def test_settings_bear_the_shortest_label_that_tells_them_apart(make_run):
    words = {
        "a": ("learner.optimizer.lr=1", "game.rule.lr=1", "+extra.depth=3", "seed=1"),
        "b": ("learner.optimizer.lr=2", "game.rule.lr=1", "+extra.depth=4", "seed=1"),
        "c": ("learner.optimizer.lr=1", "game.rule.lr=2", "+extra.depth=3", "seed=2"),
    }
    runs = [make_run(name, overrides=each, iterations=1) for name, each in words.items()]
    assert list(by_setting(runs)) == [
        "optimizer.lr=1 rule.lr=1 depth=3", "optimizer.lr=2 rule.lr=1 depth=4", "optimizer.lr=1 rule.lr=2 depth=3",
    ]  # fmt: skip


def test_the_mean_over_seeds_has_an_interval_over_seeds():
    found = over([figure(1.0), figure(2.0), None, figure(3.0)])
    assert found["mean"] == 2.0 and found["n"] == 3
    assert found["high"] - 2.0 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert over([figure(1.0)]) == figure(1.0) and over([None]) == {}


def test_what_can_be_told_from_the_best_is_marked(make_run):
    found = {each.label: each for each in settings(jobs(make_run, {"0.1": 1.0, "0.2": 2.0, "0.3": 2.0}))}
    assert [each.mark for each in found.values()] == ["worse", "best", "same"]
    kept = found["lr=0.2"].kept  # 4 + 2 (2 + 0.1 s) + 0.1 s for s = 1, 2, 3
    assert kept["mean"] == pytest.approx(8.6) and found["lr=0.2"].start["mean"] == pytest.approx(4.2)
    assert [each["mean"] for each in found["lr=0.2"].mean().values()] == pytest.approx([4.2, 6.4, 8.6])


def test_few_seeds_are_told_apart_by_scenario_and_what_shares_none_is_not(make_run):
    one = make_run("a", gain=0.0, overrides=("x=1",), scores={f"s{at}": 1.0 + at % 2 for at in range(8)})
    two = make_run("b", gain=2.0, overrides=("x=2",), scores={f"s{at}": 2.0 + at % 3 for at in range(8)})
    far = make_run("c", gain=0.1, overrides=("x=3",), scores={"elsewhere": 1.0})
    assert {each.label: each.mark for each in settings([one, two, far])} == {
        "x=1": "worse", "x=2": "best", "x=3": "unknown",
    }  # fmt: skip


def test_runs_that_are_judged_by_different_metrics_are_refused(make_run):
    one, two = make_run("a"), make_run("b")
    data = json.loads((two / "summary.json").read_text())
    (two / "summary.json").write_text(json.dumps({**data, "metric": "deal_rate"}))
    with pytest.raises(ValueError, match=r"different metrics: deal_rate, joint"):
        settings([one, two])


def test_the_page_has_every_setting_seed_and_job(make_run, tmp_path):
    runs = jobs(make_run, {"0.1": 1.0, "0.2": 2.0})
    html.write(runs[0])
    path = overview.write(tmp_path, "sweep", "<b>A sweep</b>", settings(runs), [tmp_path / "lost"])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text["h1"] == ["<b>A sweep</b>"] and not page.all("script")
    assert {"lr=0.1", "lr=0.2"} <= set(page.text["th"])
    assert {"worse than the best", "best"} <= set(page.text["td"])
    assert [each["href"] for each in page.all("a")] == ["0/report/index.html"]
    groups = [each["class"] for each in page.all("g")]
    assert (
        groups.count("series-0 thin") == groups.count("series-1 thin") == 2 * 3
    )  # seeds, in the wide chart and the narrow
    assert any("1 of the jobs have no summary: lost" in text for text in page.text["p"])
    assert "src" not in {key for _, attributes in page.tags for key in attributes}


def test_the_figure_stands_alone_and_the_numbers_are_in_long_form(make_run, tmp_path):
    runs = jobs(make_run, {"0.1": 1.0, "<0.2&": 2.0}, seeds=(1, 2))
    overview.write(tmp_path, "sweep", "A sweep", settings(runs))
    root = ET.fromstring((tmp_path / "sweep.svg").read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"lr=0.1", "lr=<0.2&", "joint", "iteration"} <= set(texts)
    rows = list(csv.DictReader((tmp_path / "sweep_by_iteration.csv").read_text().splitlines()))
    assert len(rows) == 4 * 3 * 2  # jobs, iterations, modes
    kept = [row for row in rows if row["kept"] == "1" and row["mode"] == "sampled" and row["setting"] == "lr=0.1"]
    assert [float(row["mean"]) for row in kept] == pytest.approx([4 + 2 * 1.1 + 0.1, 4 + 2 * 1.2 + 0.2])


def test_many_settings_have_a_chart_each_on_one_scale(make_run):
    found = settings(jobs(make_run, {f"0.{at}": 1.0 + at for at in range(1, STYLES + 2)}, seeds=(1,)))
    charts = learning("joint", found)
    assert [label for label, _ in charts] == [each.label for each in found] and len(charts) == STYLES + 1
    scales = {tuple(re.findall(r'text-anchor="end">([^<]+)<', svg)) for _, svg in charts}
    assert len(scales) == 1


def test_a_sweep_leaves_its_table_page_figure_and_numbers(make_run, tmp_path, capsys):
    from omegaconf import OmegaConf

    for run in jobs(make_run, {"0.1": 1.0, "0.2": 2.0}, seeds=(1, 2)):
        (run / "config.yaml").write_text("seed: 1\n")
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert {"table.txt", "sweep.html", "sweep.svg", "sweep_by_iteration.csv"} <= {
        each.name for each in tmp_path.iterdir()
    }
    assert f"sweep: {tmp_path / 'sweep.html'}" in capsys.readouterr().out
