"""Two real browsers play a match at the table; skipped where there is no Chromium to drive."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from a_table import a_play, a_run, open_table
from parley.data.replay import replay
from parley.data.store import Matches
from parley.games.deal import Deal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import browsers

pytest.importorskip("selenium", reason="needs selenium (the extra browser)")
if browsers.CHROMIUM is None or browsers.DRIVER is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)


def play(link: str) -> None:
    people = []
    try:
        people += [browsers.Person(link)]
        people += [browsers.Person(link)]
        for person in people:
            person.click("#sit")
        people[0].until(lambda: any("your turn" in each.status for each in people))
        one, two = people if "your turn" in people[0].status else people[::-1]
        one.click("fieldset button")
        one.says("Your reply was not accepted: say something before you propose")
        one.write("<b onclick=alert(1)>hats</b> for me\n")
        two.says("<b onclick=alert(1)>hats</b> for me")
        for scheme in ("light", "dark"):
            assert two.look(scheme, "phone") == []
        one.driver.refresh()
        one.says("hats")
        two.click("fieldset button")
        one.until(lambda: "your turn" in one.status)
        one.click("fieldset button")
        for person in people:
            person.says("It ended with: mismatch")
            assert person.look("dark", "phone") == [] and person.errors() == []
    finally:
        for person in people:
            person.quit()


@pytest.mark.slow
def test_two_browsers_play_a_match(tmp_path):
    folder = a_run(tmp_path / "run")

    async def go():
        async with open_table(folder, {"play": a_play()}) as (client, persons):
            await asyncio.to_thread(play, str(client.make_url(f"/join/{persons.door('join')}")))

    asyncio.run(go())
    (episode,) = Matches(folder / "table" / "play")
    assert replay(Deal(), episode).result.outcome == "mismatch" and len(episode.turns) == 4
