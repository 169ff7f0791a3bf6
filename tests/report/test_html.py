"""The page is read back with an HTML parser: what it shows, and that nothing a model wrote becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from market import NASTY, views
from parley.report import html
from parley.report.choice import COLUMNS, choose, rows
from parley.report.curves import Curve, chart, scale

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
    return Page(html.write(make_run(), {"joint": "points of both & all"}, views).read_text(encoding="utf-8"))


def test_what_a_model_wrote_is_shown_and_never_obeyed(page):
    shown = NASTY.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert shown in page.text["pre"]
    assert len(page.all("script")) == 1
    assert "alert('model')" not in "".join(page.text["script"])
    assert "you buy <cheap>" in page.text["pre"]


def test_the_policy_lets_only_the_own_script_run_and_nothing_is_fetched(page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256("".join(page.text["script"]).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for name, attributes in page.tags:
        assert name not in ("link", "img", "iframe", "object", "base"), name
        assert not any(key in ("src", "href", "style") or key.startswith("on") for key in attributes), (
            name,
            attributes,
        )
    assert "url(" not in "".join(page.text["style"])


def test_every_iteration_and_metric_is_in_the_table(page):
    cells = page.text["td"]
    assert {"0", "1", "demonstrators", "2 (kept)"} <= set(cells)
    assert "4.10 ±0.20" in cells and "7.10 ±0.20" in cells  # sampled joint of the start and of the kept one
    assert "5.50 ±0.20" in cells
    assert {"joint", "deal_rate", "points", "play.entropy", "learn.loss", "kindness"} <= set(page.text["th"])
    assert any(head.get("title") == "points of both & all" for head in page.all("th"))


def test_curves_show_sampled_greedy_versus_and_the_demonstrators(page):
    groups = [attributes["class"] for attributes in page.all("g")]
    assert groups.count("series-sampled") == groups.count("series-greedy") == groups.count("series-versus") == 3
    assert groups.count("series-level") == 3
    assert "sampled, iteration 0: 4.10 ±0.20" in page.text["title"]


def test_transcripts_are_best_worst_and_random(page):
    matches = page.all("article")
    assert [match["data-kind"] for match in matches] == ["best", "best", "worst", "worst", "random", "random"] * 3
    heads = page.text["h3"]
    assert any(head.startswith("iteration 0, best: joint 6") for head in heads)
    assert any(head.startswith("iteration 0, worst: joint 0") and "no deal" in head for head in heads)
    assert "refused, reason no tag" in page.text["span"]
    assert "retry" in page.text["span"] and "ended by length" in page.text["span"]


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
    assert len(Page(html.write(run, {'"><script>x': '" onload="'}).read_text(encoding="utf-8")).all("script")) == 1


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
    drawn = chart(
        "growth", [Curve("sampled", "sampled", points)], {"mean": -20.0, "low": -30.0, "high": -10.0}, "level"
    )
    Page(drawn)
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", drawn):
        assert 52 <= float(x) <= 408 and 14 <= float(y) <= 208
    assert "nan" not in drawn and "inf" not in drawn


def test_the_axis_of_a_rate_does_not_follow_an_interval_beyond_what_a_rate_can_be():
    points = {0: {"mean": 0.01, "low": -0.1, "high": 0.12}, 1: {"mean": 0.9, "low": 0.7, "high": 1.1}}
    drawn = chart("deal_rate", [Curve("sampled", "sampled", points)])
    ticks = re.findall(r'text-anchor="end">([^<]+)<', drawn)
    assert ticks == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
def test_the_script_is_javascript(page, tmp_path):
    path = tmp_path / "page.js"
    path.write_text("".join(page.text["script"]))
    subprocess.run(["node", "--check", str(path)], check=True)
