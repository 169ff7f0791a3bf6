"""Watching runs: the list and the reports, while a run is at work, and nothing of people."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer
from parley.data.store import EpisodeStore
from parley.games.deal import Deal
from parley.report.html import PATH
from parley.report.pages import allowed
from parley.run.match import play_match
from parley.system.files import lock
from parley.table.persons import Persons
from parley.table.server import Serving, Site
from parley.table.watch import REPORT
from test_server import ECHO, SETTINGS, refused

CONFIG = "name: {name}\nseed: 3\niterations: 4\ntask: {{_target_: parley.cli.tasks.training.selfplay}}\n"


def a_run(folder: Path, name: str, done: int = 0, report: str = "") -> Path:
    run = folder / name / "2026-01-31_12-00-00_ab12cd"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG.format(name=name))
    for number in range(done):
        (learn := run / f"iter_{number + 1:03d}" / "learn").mkdir(parents=True)
        (learn / "stage.json").write_text("{}")
    if report:
        (run / REPORT).parent.mkdir()
        (run / REPORT).write_text(report)
    return run


def watched(folder: Path, work, **changed):
    async def go():
        persons = Persons(folder / "table")
        site = Site({"echo": ECHO}, persons, Serving(**{**SETTINGS, "watched": [str(folder / "outputs")], **changed}))
        site.watchers.watching.fresh_s = 0.0
        async with TestClient(TestServer(site.application())) as client:
            await work(client, persons, f"/watch/{persons.door('watch')}")

    asyncio.run(go())


def test_runs_are_listed_and_their_reports_shown_while_they_are_at_work(tmp_path):
    assert REPORT.as_posix() == Path(PATH).as_posix()
    one = a_run(tmp_path / "outputs", "one", 2, "<!doctype html><script>1</script>of one")
    a_run(tmp_path / "outputs", "<b>two", 0)

    async def work(client, persons, at):
        assert (await client.get(f"{at}/")).status == 200
        with lock(one):
            rows = {row["experiment"]: row for row in await (await client.get(f"{at}/runs")).json()}
        assert rows["one"]["state"] == "running" and rows["one"]["done"] == "2/4" and rows["one"]["seed"] == "3"
        assert rows["<b>two"]["state"] == "stopped" and rows["<b>two"]["report_s"] is None
        link = f"{at}/report/{rows['one']['key']}"
        page = await client.get(link)
        assert page.content_type == "text/html" and "of one" in await page.text()
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "sandbox allow-scripts" in policy and "same-origin" not in policy
        (one / REPORT).write_text("written anew")
        assert await (await client.get(link)).text() == "written anew"  # the same link
        assert "no report yet" in await refused(await client.get(f"{at}/report/{rows['<b>two']['key']}"), 404)

    watched(tmp_path, work)


def test_a_watcher_is_no_person_and_no_path_of_theirs_reaches_the_disk(tmp_path):
    run = a_run(tmp_path / "outputs", "one", 1, "a report")
    (run / "table" / "play").mkdir(parents=True)
    (run / "table" / "play" / "0.jsonl").write_text('{"secret": "zq"}\n')

    async def work(client, persons, at):
        _, token = persons.join({})
        watch, join = persons.door("watch"), persons.door("join")
        for path in (
            f"/watch/{join}/runs",
            f"/watch/{token}/runs",
            f"/join/{watch}",
            f"/p/{watch}/echo/whoami",
            "/watch/x/",
        ):
            assert "not valid" in await refused(await client.get(path), 404)
        for key in ("x", "..%2f..%2ftable", "%00", run.name, "../0"):
            assert "there is no such" in await refused(await client.get(f"{at}/report/{key}"), 404)
        text = json.dumps(await (await client.get(f"{at}/runs")).json())
        assert "zq" not in text and str(tmp_path) not in text

    watched(tmp_path, work)


def test_matches_of_all_runs_are_searched_and_shown_page_by_page(tmp_path):
    game = Deal()
    base = play_match(game, dict.fromkeys(game.roles, "fair"), game.scenarios("train")[0])
    told = replace(base.turns[0], text="<b onclick=zq>hello")
    for name in ("one", "two"):
        with EpisodeStore(a_run(tmp_path / "outputs", name) / "iter_001/play") as store:
            for number in range(40):
                result = replace(base.result, outcome="<i>odd" if number % 4 else "cap", metrics={"score": number})
                store.append(replace(base, id=f"iter_001/play/{number}", result=result, turns=(told, *base.turns[1:])))

    async def work(client, persons, at):
        async def found(query):
            return await (await client.get(f"{at}/matches?{query}")).json()

        first = await found("")
        assert len(first["rows"]) == 50 and first["outcomes"] == ["<i>odd", "cap"] and first["metrics"] == ["score"]
        rest = await found(f"after={first['after']}")
        assert len(rest["rows"]) == 30 and rest["after"] is None and first["left_mb"] == 0
        assert len({(row["run"], row["match"]) for row in first["rows"] + rest["rows"]}) == 80
        some = (await found("outcome=cap&metric=score&least=8&most=20.5"))["rows"]
        assert [row["value"] for row in some] == ["20", "20", "16", "16", "12", "12", "8", "8"]
        run = some[0]["run"]
        assert [row["run"] for row in (await found(f"run={run}&metric=score&most=1"))["rows"]] == [run, run]
        page = await client.get(f"{at}/match/{run}", params={"match": some[0]["match"]})
        text = await page.text()
        assert page.status == 200 and "&lt;b onclick=zq&gt;hello" in text and "<b onclick" not in text
        assert "sandbox allow-scripts" in page.headers["Content-Security-Policy"] and str(tmp_path) not in text
        for query in ("least=x", "after=1", "after=a:b:c", "after=1:2:3:4"):
            await refused(await client.get(f"{at}/matches?{query}"), 400)
        for odd in (
            "run=none",
            "outcome=%ED%A0%80",
            "metric=%00",
            "after=nan:none:9" + 40 * "9",
            "least=nan&metric=score",
        ):
            assert (await found(odd))["rows"] == [] or "after" in odd
        for path in ("match/none?match=x", f"match/{run}", f"match/{run}?match=..%2f..%2fconfig.yaml"):
            assert "there is no such" in await refused(await client.get(f"{at}/{path}"), 404)
        for path in ("matches", f"match/{run}?match={some[0]['match']}"):
            assert "not valid" in await refused(await client.get(f"/watch/{persons.door('join')}/{path}"), 404)

    watched(tmp_path, work)


def test_there_is_no_watchers_link_unless_folders_are_named(tmp_path):
    a_run(tmp_path / "outputs", "one", 1, "a report")

    async def work(client, persons, at):
        for path in ("runs", "matches"):
            assert "not valid" in await refused(await client.get(f"{at}/{path}"), 404)

    watched(tmp_path, work, watched=[])


def test_a_run_that_somebody_sent_shows_no_other_file_and_runs_no_script(tmp_path):
    (tmp_path / "secret.txt").write_text("zq")
    linked = a_run(tmp_path / "outputs", "linked", 1)
    (linked / REPORT).parent.mkdir()
    (linked / REPORT).symlink_to(tmp_path / "secret.txt")
    a_run(tmp_path / "outputs", "scripted", 1, "<script>location = 'http://elsewhere/' + location</script>")

    async def work(client, persons, at):
        rows = {row["experiment"]: row for row in await (await client.get(f"{at}/runs")).json()}
        link = f"{at}/report/{rows['linked']['key']}"
        assert "lies elsewhere" in await refused(await client.get(link), 404)
        page = await client.get(f"{at}/report/{rows['scripted']['key']}")
        scripts = page.headers["Content-Security-Policy"].partition("script-src ")[2].partition(";")[0]
        assert scripts == f"'{allowed('page.js')}'"  # as the report's own policy has it

    watched(tmp_path, work)
