"""The page is read back with an HTML parser: what it shows, and that nothing a model wrote becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from market import NASTY, figure, views
from parley.games.base import Facts
from parley.report import gallery, html
from parley.report.choice import COLUMNS, choose, rows
from parley.report.curves import Curve, Level, chart, scale
from parley.report.panels import _limits

FACTS = Facts(0, 10, 4, 1, metrics={"joint": "points of both & all"}, ceilings={"joint": "top"})
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Tags with their attributes, text by tag; fails on a tag that is closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(make_run) -> Page:
    return Page(html.write(make_run(), FACTS, views).read_text(encoding="utf-8"))


def listed(page: Page) -> list[dict]:
    """The matches of the list, as the page's script reads them."""
    (stored,) = [text for text in page.text["script"] if text.startswith("[")]
    return json.loads(stored)


def transcript(page: Page, at: int) -> Page:
    return Page(listed(page)[at]["html"])


def test_what_a_model_wrote_is_shown_and_never_obeyed(page):
    shown = NASTY.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    for text in (page.text, transcript(page, 0).text):
        assert shown in text["pre"] and "you buy <cheap>" in text["pre"]
    scripts = page.all("script")
    assert [script.get("type") for script in scripts] == ["application/json", None]  # data, and the page's own
    assert "alert('model')" not in page.text["script"][-1]
    assert not transcript(page, 0).all("script")


def test_the_policy_lets_only_the_own_script_run_and_nothing_is_fetched(page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.text["script"][-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for name, attributes in page.tags:
        assert name not in ("link", "img", "iframe", "object", "base"), name
        for key, value in attributes.items():
            assert key not in ("src", "style") and not key.startswith("on"), (name, attributes)
            assert key != "href" or str(value).startswith("#"), (name, attributes)
    assert "url(" not in "".join(page.text["style"])


def test_every_iteration_and_metric_is_in_the_table(page):
    assert {"0", "1", "demonstrators", "2 (kept)"} <= set(page.text["th"])
    cells = page.text["td"]
    assert "4.10 ±0.20" in cells and "7.10 ±0.20" in cells  # sampled joint of the start and of the kept one
    assert "5.50 ±0.20" in cells
    assert {"joint", "deal_rate", "points", "play.entropy", "learn.loss", "kindness"} <= set(page.text["th"])
    assert any(head.get("title") == "points of both & all" for head in page.all("th"))


def test_curves_show_sampled_greedy_versus_the_demonstrators_and_the_kept_snapshot(page):
    groups = [attributes["class"] for attributes in page.all("g")]
    four = 4  # the metric in two sizes, and two small multiples
    for series in ("greedy", "versus", "level", "kept"):
        assert groups.count(f"series-{series}") == four + (2 if series == "kept" else 0), (
            series
        )  # learning has two more
    assert "sampled, iteration 0: 4.10 ±0.20" in page.text["title"]
    assert "ceiling" not in "".join(groups)  # no match says what its most is
    assert "the most that can be reached" not in page.text["li"]


def test_the_most_that_can_be_reached_is_a_line(make_run):
    run = make_run()
    data = json.loads((run / "summary.json").read_text())
    for row in data["iterations"]:
        row["policies"]["learner"]["sampled"]["top"] = figure(9.0)
    (run / "summary.json").write_text(json.dumps(data))
    page = Page(html.write(run, FACTS, views).read_text(encoding="utf-8"))
    assert [each["class"] for each in page.all("g")].count("series-ceiling") == 2
    assert (
        "the most that can be reached: 9.00 ±0.20" not in page.text["title"]
    )  # a mean over iterations has no interval
    assert "the most that can be reached: 9.000" in page.text["title"]
    assert "the most that can be reached" in page.text["li"]


def test_a_zero_sum_game_is_drawn_against_the_start(make_run):
    page = Page(html.write(make_run(), replace(FACTS, zero_sum=True), views).read_text(encoding="utf-8"))
    large = [title for title in page.text["title"] if title.startswith(("sampled, it", "greedy, it"))]
    assert len(large) == 2 * 2 * 3  # two small multiples with both, at three iterations
    assert sum(title.startswith("against the start, it") for title in page.text["title"]) == 4 * 3


def test_what_never_moved_is_folded_away(make_run):
    run = make_run()
    data = json.loads((run / "summary.json").read_text())
    for row in data["iterations"]:
        row["policies"]["learner"]["sampled"] |= {
            "abort_rate": figure(0.0),
            "cap_rate": figure(0.0),
            "flat": figure(3.0),
        }
    (run / "summary.json").write_text(json.dumps(data))
    page = Page(html.write(run).read_text(encoding="utf-8"))
    assert {"flat", "abort_rate, cap_rate"} <= set(page.text["dt"])
    assert {"sampled 3.00 ±0.20", "0 throughout"} <= set(page.text["dd"])
    assert "abort_rate" not in page.text["b"] and "deal_rate" in page.text["b"]


def test_transcripts_are_best_worst_and_random_and_can_be_found(page):
    found = listed(page)
    assert [match["kind"] for match in found] == ["best", "best", "worst", "worst", "random", "random"] * 3
    assert [match["iteration"] for match in found] == [0] * 6 + [1] * 6 + [2] * 6
    assert found[0]["value"] == 6.0 and found[0]["outcome"] == "deal" and found[2]["outcome"] == "no deal"
    assert all(match["retried"] and not match["blamed"] and not match["forked"] for match in found)
    shown = transcript(page, 0)
    assert any(head.startswith("iteration 0, best: joint 6") for head in shown.text["h3"])
    assert "refused, reason no tag" in shown.text["span"]
    assert "retry" in shown.text["span"] and "ended by length" in shown.text["span"]
    assert any("task=replay" in code and "match=sampled/0/s4" in code for code in shown.text["code"])


def test_one_scenario_stands_at_the_start_and_at_the_end(page, make_run):
    heads = [head for head in page.text["h3"] if "at the start" in head or "at the end" in head]
    assert heads[0] == "The same scenario at the start and at the end"
    assert [head.split(":")[0] for head in heads[1:]] == ["iteration 0, at the start", "iteration 2, at the end"] * 3
    for before, after in zip(page.all("article")[::2], page.all("article")[1::2], strict=True):
        assert before["data-match"].split("/")[2] == after["data-match"].split("/")[2]
    scores = {"up": 2.0, "same": 2.0, "down": 4.0}
    run = make_run("pairs", scores=scores, gain=0.0)
    found = gallery.pairs(run, (0, 1), "joint", views)
    assert [pair.gain for pair in found] == [0.0, 0.0, 0.0] and len({pair.before.scenario for pair in found}) == 3


def test_transcripts_that_do_not_fit_are_counted(make_run, monkeypatch):
    run = make_run()
    one = len(gallery.entries(run, 0, "joint", 1, 1, views)[0].html)
    monkeypatch.setattr(gallery, "ROOM", 14 * one)
    page = Page(html.write(run, FACTS, views).read_text(encoding="utf-8"))
    found, (left,) = listed(page), [text for text in page.text["p"] if "do not fit" in text]
    assert len(found) + int(left.split()[0]) == 18 and 10 < len(found) < 16
    assert [match["iteration"] for match in found].count(1) == len(found) - 12  # the start and the kept one go first


def test_a_long_run_has_thinned_tables_and_no_dot_for_each_iteration(make_run):
    run = make_run(iterations=101)
    text = html.write(run, FACTS, views, transcripts=2).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.tags) < 20_000 and len(text) < 5_000_000
    rows = [label for label in page.text["th"] if re.fullmatch(r"\d+( \(kept\))?", label)]
    assert "100 (kept)" in rows and "0" in rows and "7" not in rows
    assert not page.all("circle")


def test_chosen_matches_are_distinct_in_match_and_scenario(make_run):
    run = make_run()
    chosen = choose(run, 1, "joint", 7, seed=3)
    assert [kind for kind, _ in chosen] == ["best"] * 2 + ["worst"] * 2 + ["random"] * 3
    assert len({episode.id for _, episode in chosen}) == len({episode.scenario.id for _, episode in chosen}) == 7
    assert chosen == choose(run, 1, "joint", 7, seed=3)
    assert len(choose(run, 1, "joint", 100, seed=3)) == 9
    assert choose(run, 7, "joint", 6, seed=3) == []


def test_the_chosen_matches_make_a_table_for_trackers(make_run):
    run = make_run()
    made = rows(choose(run, 0, "joint", 3, seed=1), views, "joint")
    assert [len(row) for row in made] == [len(COLUMNS)] * 3
    kind, _, scenario, outcome, value, told = made[0]
    assert (kind, scenario, outcome, value) == ("best", "s4", "deal", 6.0)
    assert (
        "seller: learner (iter_000), payoff 2" in told
        and "[system] you sell" in told
        and "[assistant: refused, reason no tag] garbage" in told
    )


@pytest.mark.parametrize(
    ("iterations", "told"), [(1, "0 iterations after"), (2, "1 iteration after"), (3, "2 iterations a")]
)
def test_a_page_says_how_many_iterations_there_were(make_run, iterations, told):
    assert told in html.write(make_run(iterations=iterations)).read_text()


def test_a_run_without_matches_or_demonstrators_still_has_its_page(make_run):
    run = make_run(demonstrators=False)
    for folder in run.glob("iter_*"):
        shutil.rmtree(folder)
    page = Page(html.write(run).read_text(encoding="utf-8"))
    assert "No match of this run is stored." in page.text["p"]
    assert "series-level" not in [attributes["class"] for attributes in page.all("g")]


def test_a_hostile_summary_is_text_too(make_run):
    run = make_run()
    data = json.loads((run / "summary.json").read_text())
    data["experiment"] = "<script>1</script>"
    for row in data["iterations"]:
        sampled = row["policies"]["learner"]["sampled"]
        sampled['"><script>x'] = sampled["points"]
    (run / "summary.json").write_text(json.dumps(data))
    facts = Facts(0, 1, 1, 0, metrics={'"><script>x': '" onload="'})
    assert len(Page(html.write(run, facts).read_text(encoding="utf-8")).all("script")) == 2


def test_an_unfinished_run_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no summary\.json.*resume="):
        html.write(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0.0, 1.0, 0.2)),
        (4.1, 12.9, (4.0, 14.0, 2.0)),
        (-3.0, 2.0, (-3.0, 2.0, 1.0)),
        (5.0, 5.0, (4.4, 5.6, 0.2)),
        (0.0, 0.0, (0.0, 1.0, 0.2)),
    ],
)
def test_axes_end_at_round_numbers(low, high, expected):
    assert scale(low, high) == pytest.approx(expected)


def test_a_chart_stays_inside_its_frame():
    points = {k: {"mean": 3.0**k, "low": 3.0**k - 1, "high": 3.0**k + 4} for k in range(5)}
    points[5] = {"mean": 100.0, "low": None, "high": float("inf")}
    level = Level("level", "level", {"mean": -20.0, "low": -30.0, "high": -10.0})
    drawn = chart("growth", [Curve("sampled", "sampled", points)], [level])
    Page(drawn)
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", drawn):
        assert 66 <= float(x) <= 406 and 14 <= float(y) <= 208
    assert "nan" not in drawn and "inf" not in drawn


def test_the_axis_of_a_rate_does_not_follow_an_interval_beyond_what_a_rate_can_be():
    points = {0: {"mean": 0.01, "low": -0.1, "high": 0.12}, 1: {"mean": 0.9, "low": 0.7, "high": 1.1}}
    drawn = chart("deal_rate", [Curve("sampled", "sampled", points)])
    ticks = re.findall(r'text-anchor="end">([^<]+)<', drawn)
    assert ticks == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
@pytest.mark.parametrize(
    ("name", "mean", "limits"),
    [("deal_rate", 1.0, (0.0, 1.0)), ("deal_rate", 1.5, None), ("score", 0.5, None), ("cut_share", -0.1, None)],
)
def test_rates_are_drawn_from_nought_to_one(name, mean, limits):
    assert _limits(name, [Curve("sampled", "sampled", {0: figure(mean, 0.1)})]) == limits


def test_the_script_is_javascript(page, tmp_path):
    path = tmp_path / "page.js"
    path.write_text(page.text["script"][-1])
    subprocess.run(["node", "--check", str(path)], check=True)
