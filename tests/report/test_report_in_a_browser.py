"""The report in a real browser: its list is searched and filtered, and its layout holds on a phone; skipped where there
is no Chromium to drive."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from market import NASTY, views
from parley.games.base import Facts
from parley.report import html, overview
from parley.report.settings import settings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import browsers

pytest.importorskip("selenium", reason="needs selenium (the extra browser)")
if browsers.CHROMIUM is None or browsers.DRIVER is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)


@pytest.fixture
def opened(request):
    found = []

    def go(path: Path) -> browsers.Browser:
        found.append(browsers.Browser(path.resolve().as_uri()))
        return found[-1]

    yield go
    for each in found:
        each.quit()


def rows(browser: browsers.Browser) -> list[str]:
    return [each.text for each in browser.all("#rows tr")]


@pytest.mark.slow
def test_matches_are_searched_filtered_and_linked_to(make_run, opened):
    facts = Facts(0, 10, 4, 1, metrics={"joint": "points of both"})
    browser = opened(html.write(make_run(), facts, views))
    assert len(rows(browser)) == 18 and "18 of 18" in browser.all("#place")[0].text
    words = [each.text for each in browser.all("#match pre")]
    assert NASTY.replace("\x1b", "\N{REPLACEMENT CHARACTER}") in words  # as text
    browser.choose_by("#by-kind", "worst")
    browser.choose_by("#by-iteration", "0")
    assert len(rows(browser)) == 2 and all("worst" in row and "no deal" in row for row in rows(browser))
    browser.write("0.5", "#least")
    assert rows(browser) == [] and "0 of 18" in browser.all("#place")[0].text
    browser.write("", "#least")
    browser.write("you buy <cheap>", "#find")
    browser.driver.execute_script("document.getElementById('least').dispatchEvent(new Event('input'))")
    assert len(rows(browser)) == 2
    browser.all("#rows a")[1].click()
    browser.until(lambda: "number 2 is shown" in browser.all("#place")[0].text)
    link = browser.driver.current_url
    assert "#match=sampled%2F0%2F" in link
    shown = browser.all("#match article")[0].get_attribute("data-match")
    browser.driver.get("about:blank")
    browser.driver.get(link)
    assert browser.all("#match article")[0].get_attribute("data-match") == shown
    assert browser.errors() == []


@pytest.mark.slow
def test_pages_hold_on_a_phone_and_on_a_desktop(make_run, opened, tmp_path):
    runs = [
        make_run(
            name, seed, gain, overrides=(f"learner.optimizer.lr={gain}", f"seed={seed}"), scores={"s": 1.0, "t": 3.0}
        )
        for name, seed, gain in (("a", 1, 1.0), ("b", 2, 1.0), ("c", 1, 2.0), ("d", 2, 2.0))
    ]
    pages = [html.write(runs[0], None, views), overview.write(tmp_path, "sweep", "A sweep", settings(runs))]
    for page in pages:
        browser = opened(page)
        browser.driver.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert [browser.look(scheme, screen) for scheme in ("light", "dark") for screen in browsers.WIDTHS] == [[]] * 4
        assert browser.errors() == []
