"""A real browser takes a study from the link to the code; skipped where there is no Chromium to drive."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from parley.table.events import read
from studied import AFTER, BEFORE, LEARNERS, Visitor, played, serve, study

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import browsers

pytest.importorskip("selenium", reason="needs selenium (the extra browser)")
if browsers.CHROMIUM is None or browsers.DRIVER is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)


def look(browser: browsers.Browser) -> None:
    """The page is whole and accessible, on both screens, light and dark."""
    for scheme in ("light", "dark"):
        for screen in browsers.WIDTHS:
            assert browser.look(scheme, screen) == []
        assert browser.accessible() == []


def take(link: str) -> str:
    """Clicks through all steps; returns what the last page says."""
    browser = browsers.Browser(link)
    try:
        browser.click("#join")
        browser.says("Do you agree?")
        look(browser)
        browser.click("button[value=refuse]")
        browser.says("You did not agree")
        browser.click("button[value=again]")
        browser.click("#training")
        browser.click("button[value=agree]")
        browser.says("Be careful.")
        browser.click("button[value=read]")
        browser.click("input[value='0']")
        browser.click("button[value=questions]")
        browser.says("Not all answers were right")
        look(browser)
        browser.click("input[value='1']")
        browser.click("button[value=questions]")
        browser.says("Rate")
        look(browser)
        for seat in ("first", "second"):
            for scale, value in (("goal", "7"), ("tone", "-2")):
                browser.choose_by(f"select[data-subject='{seat}'][data-scale='{scale}']", value)
        browser.click("button[value=rate]")
        browser.says("Which?")
        look(browser)
        browser.click("button[value=tie]")
        browser.says("DONE-")
        assert "learner" in browser.text  # who played is told after the vote
        look(browser)
        assert browser.errors() == []
        return browser.text
    finally:
        browser.quit()


@pytest.mark.slow
def test_a_browser_takes_a_study(tmp_path):
    for stage in (BEFORE, AFTER):
        played(tmp_path, stage, [LEARNERS])
    said = []

    async def work(client, persons):
        said.append(await asyncio.to_thread(take, str(client.make_url(f"/join/{persons.door('join')}"))))
        assert (await Visitor(client, persons, "another").step())["step"] == "consent"

    serve(tmp_path, study(rate=1, vote=1, attention=[]), work)
    done = {event["what"]: event for event in read(tmp_path / "table/study")}
    assert done["consent"]["training"] is True and done["vote"]["vote"] == "tie"
    assert [row["scores"] for row in done["rating"]["rows"]] == [{"goal": 7.0, "tone": -2.0}] * 2
    assert f"DONE-{done['done']['person']}" in said[0] and "You earned 1.50 and a bonus of 0.25 USD" in said[0]
