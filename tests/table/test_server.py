"""The table's server through aiohttp's own client: who comes in, what guards the routes, what a part adds."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from parley.table.answers import static
from parley.table.part import Refusal, Served, text
from parley.table.persons import Person, Persons, digest
from parley.table.server import Rate, Serving, Site

Client = TestClient[Any, Any]
SETTINGS: dict[str, Any] = {
    "parts": {}, "host": "127.0.0.1", "port": 0, "outer_keys": ["WHO"], "max_bytes": 2000, "per_minute": 1000.0,
    "streams": 2, "forms_to": [], "framed_by": [], "preview": {"WHO": "NOBODY"},
}  # fmt: skip


async def read(person: Person) -> Any:
    return {"person": person.id}


async def take(person: Person, body: Mapping[str, Any]) -> Any:
    return {"said": text(body, "text", 20)}


async def stream(person: Person) -> AsyncIterator[Any]:
    for number in range(3):
        yield {"number": number}


async def stumble(person: Person) -> Any:
    raise RuntimeError("a secret of the server")


ECHO = Served("Echo", "home.html", {"whoami": read, "stumble": stumble}, {"say": take}, {"events": stream})


def with_client(
    folder: Path,
    work: Callable[[Client, Persons], Awaitable[None]],
    parts: Mapping[str, Served] | None = None,
    **changed: Any,
) -> None:
    """Runs `work` with a client of a site in `folder`."""

    async def go() -> None:
        persons = Persons(folder, ["WHO"])
        site = Site(parts or {"echo": ECHO}, persons, Serving(**{**SETTINGS, **changed}))
        async with TestClient(TestServer(site.application())) as client:
            await work(client, persons)

    asyncio.run(go())


async def refused(answer: Any, status: int) -> str:
    """The one sentence of a refusal."""
    assert answer.status == status, await answer.text()
    found = json.loads(await answer.text())
    assert list(found) == ["error"] and "\n" not in found["error"]
    return str(found["error"])


def test_a_person_comes_in_by_the_link_and_is_known_by_a_token_that_no_file_has(tmp_path):
    async def work(client, persons):
        door = persons.door("join")
        page = await client.get(f"/join/{door}")
        assert page.status == 200 and page.content_type == "text/html"
        token = (await (await client.post(f"/join/{door}", json={})).json())["token"]
        assert len(token) >= 22  # 128 bits
        mine = await (await client.get(f"/p/{token}/echo/whoami")).json()
        assert mine == {"person": persons.of(token).id} and mine["person"] not in token
        for file in tmp_path.iterdir():
            assert token not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
        about = await (await client.get(f"/p/{token}/about")).json()
        assert about == {"parts": [{"name": "echo", "title": "Echo"}], "held": None}

    with_client(tmp_path, work)


def test_who_comes_again_is_the_same_person_and_after_a_restart_too(tmp_path):
    persons = Persons(tmp_path, ["WHO"])
    one, token = persons.join({"WHO": "worker-7", "other": "x"})
    again, second = persons.join({"WHO": "worker-7"})
    other, _ = persons.join({"WHO": "worker-8"})
    nobody, _ = persons.join({"WHO": "<b>no id</b>"})
    assert one == again and len({one.id, other.id, nobody.id}) == 3
    door = persons.door("join")
    with open(tmp_path / "persons.jsonl", "a") as file:
        file.write('{"person": "torn')
    restarted = Persons(tmp_path, ["WHO"])
    assert restarted.of(token) == restarted.of(second) == one and restarted.door("join") == door
    assert restarted.join({"WHO": "worker-8"})[0] == other
    assert "worker" not in (tmp_path / "persons.jsonl").read_text()
    restarted.forget(one)
    assert restarted.of(token) is None and Persons(tmp_path, ["WHO"]).of(second) is None
    assert Persons(tmp_path, ["WHO"]).join({"WHO": "worker-7"})[0] != one


def test_every_response_has_the_policy_and_no_page_has_inline_script(tmp_path):
    async def work(client, persons):
        _, token = persons.join({})
        for path in ("/", f"/p/{token}/", "/static/base.js", f"/p/{token}/echo/events", "/nowhere"):
            answer = await client.get(path)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
            assert answer.headers["Referrer-Policy"] == "no-referrer" and answer.headers["Cache-Control"] == "no-store"
            assert "Set-Cookie" not in answer.headers

    with_client(tmp_path, work)
    for name, data in static().items():
        if name.endswith(".html"):
            page = data.decode()
            assert "<style" not in page and " style=" not in page and "http:" not in page and "https:" not in page
            assert page.count("<script") == page.count('<script type="module" src="'), name
        assert b"innerHTML" not in data and b"eval(" not in data, name


def test_events_come_as_they_are_and_windows_are_limited(tmp_path):
    async def waits(person: Person) -> AsyncIterator[Any]:
        yield {"text": "one\n\ndata: two"}
        await asyncio.sleep(3600)

    async def work(client, persons):
        _, token = persons.join({})
        answer = await client.get(f"/p/{token}/echo/events")
        lines = [line for line in (await answer.text()).splitlines() if line.startswith("data: ")]
        assert [json.loads(line[6:]) for line in lines] == [{"number": 0}, {"number": 1}, {"number": 2}]
        held = [await client.get(f"/p/{token}/wait/events") for _ in range(2)]
        block = await held[0].content.readuntil(b"}\n\n")
        assert block.endswith(b'data: {"text": "one\\n\\ndata: two"}\n\n')
        assert "windows" in await refused(await client.get(f"/p/{token}/wait/events"), 429)
        for answer in held:
            answer.close()

    with_client(tmp_path, work, {"echo": ECHO, "wait": Served("W", "home.html", streams={"events": waits})})


def test_whatever_is_sent_gets_one_clear_refusal(tmp_path):
    async def work(client, persons):
        _, token = persons.join({})
        at, door = f"/p/{token}/echo", persons.door("join")
        js = {"content-type": "application/json"}
        bad = [
            (client.get("/p/wrong/echo/whoami"), 404, "not valid"),
            (client.get(f"/p/{digest(token)}/echo/whoami"), 404, "not valid"),
            (client.get("/join/wrong"), 404, "not valid"),
            (client.post("/join/", json={}), 404, "no such page"),
            (client.post(f"/join/{door}", data="x"), 415, "expected JSON"),
            (client.get("/static/..%2fserver.py"), 404, "no such file"),
            (client.get("/static/%2e%2e%2f%2e%2e%2fpersons.jsonl"), 404, "no such"),
            (client.get(f"{at}/../../../etc/passwd"), 404, ""),
            (client.get(f"{at}/say"), 405, "does not accept"),
            (client.put(f"{at}/say", json={}), 405, "does not accept"),
            (client.post(f"{at}/whoami", json={}), 405, "does not accept"),
            (client.post(f"{at}/say", data=b"{", headers=js), 400, "not JSON"),
            (client.post(f"{at}/say", data=b"\xff\xfe", headers=js), 400, "not JSON"),
            (client.post(f"{at}/say", data=b"[" * 1900, headers=js), 400, "not JSON"),
            (client.post(f"{at}/say", json=["text"]), 400, "object"),
            (client.post(f"{at}/say", json={}), 400, "must be text"),
            (client.post(f"{at}/say", json={"text": {"a": 1}}), 400, "must be text"),
            (client.post(f"{at}/say", json={"text": "x" * 21}), 400, "shorten"),
            (client.post(f"{at}/say", json={"text": "x" * 5000}), 413, "send less"),
            (client.post(f"{at}/say", json={"text": "a\x1b[2Jb"}), 400, "cannot be shown"),
            (client.post(f"{at}/say", json={"text": "a\u202eb"}), 400, "cannot be shown"),
            (client.post(f"{at}/say", data=b'{"text": "\\ud800"}', headers=js), 400, "cannot be shown"),
            (client.post(f"{at}/say", json={}, headers={"Sec-Fetch-Site": "cross-site"}), 403, "another"),
            (client.get(f"{at}/whoami", headers={"Sec-Fetch-Site": "same-site"}), 403, "another site"),
            (client.get(f"{at}/stumble"), 500, "try again"),
        ]  # fmt: skip
        for request, status, words in bad:
            assert words in await refused(await request, status)
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}  # a link in a mail
        assert (await client.get(f"/p/{token}/", headers=link)).status == 200
        page = await client.get("/p/<script>/", headers={"Accept": "text/html"})
        assert page.content_type == "text/html" and "<script>" not in await page.text()
        said = await client.post(f"{at}/say", json={"text": " <b>שלום</b>\r\n"})
        assert await said.json() == {"said": "<b>שלום</b>"}

    with_client(tmp_path, work)


def test_requests_are_limited_by_person(tmp_path):
    async def work(client, persons):
        (_, one), (_, other) = persons.join({}), persons.join({})
        found = [(await client.get(f"/p/{one}/echo/whoami")).status for _ in range(8)]
        assert found[:4] == [200] * 4 and found[-1] == 429
        assert (await client.get(f"/p/{other}/echo/whoami")).status == 200

    with_client(tmp_path, work, per_minute=5.0)
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    assert [rate.take("a") for _ in range(61)] == [True] * 60 + [False] and rate.take("b")
    now[0] = 1.0
    assert [rate.take("a"), rate.take("a")] == [True, False]


def test_a_part_may_hold_people_from_the_others(tmp_path):
    consented: set[str] = set()

    async def agree(person: Person, body: Any) -> Any:
        consented.add(person.id)
        return {}

    study = Served(
        "Consent", "home.html", takes={"agree": agree}, holds=lambda one: "" if one.id in consented else "consent first"
    )

    async def work(client, persons):
        _, token = persons.join({})
        assert (await (await client.get(f"/p/{token}/about")).json())["held"] == "study"
        assert await refused(await client.get(f"/p/{token}/echo/whoami"), 403) == "consent first"
        assert (await client.post(f"/p/{token}/study/agree", json={})).status == 200
        assert (await client.get(f"/p/{token}/echo/whoami")).status == 200

    with_client(tmp_path, work, {"study": study, "echo": ECHO})


def test_text_refuses_what_cannot_be_shown():
    assert text({"a": "  two\r\nlines "}, "a", 20) == "two\nlines"
    with pytest.raises(Refusal, match="'a' has 21 characters, and may have 20"):
        text({"a": "x" * 21}, "a", 20)


@pytest.mark.parametrize(("header", "statuses"), [("X-Real", [200, 429, 200, 429]), ("", [200, 429, 429, 429])])
def test_newcomers_behind_a_proxy_are_counted_apart_where_its_header_is_trusted(tmp_path, header, statuses):
    async def work(client, persons):
        for address, status in zip(("10.0.0.1", "10.0.0.1", "10.0.0.2", "forged, 10.0.0.1"), statuses, strict=True):
            answer = await client.get(f"/join/{persons.door('join')}", headers={"X-Real": address})
            assert answer.status == status, address

    with_client(tmp_path, work, per_minute=1.5, address_header=header)
