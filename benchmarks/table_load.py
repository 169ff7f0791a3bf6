"""The table under hostile requests and under many people, for show_table.py: clients that speak the real protocol."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.data.replay import replay
from parley.data.store import Matches
from parley.games.base import Request
from parley.games.deal import Deal
from yarl import URL

SCRIPT = Deal().scripts()["skilled"]
EIGHT_S, MANY_S = 60, 300  # of play by 8 people, and by 64
JSON = {"content-type": "application/json"}


class Guest:
    """A scripted person: every question that was asked and answered, and how long the next one took."""

    def __init__(self, session: ClientSession, base: str, door: str, number: int) -> None:
        self.session, self.base, self.door, self.number = session, base, door, number
        self.answered: list[str] = []
        self.waits: list[float] = []
        self.over: list[str] = []  # matches that ended at the page
        self.refused: Counter[str] = Counter()

    async def join(self) -> str:
        async with self.session.post(f"{self.base}/join/{self.door}", json={}) as answer:
            self.token = (await answer.json())["token"]
        return f"{self.base}/p/{self.token}/play"

    async def play(self, until: float) -> None:
        """Plays match after match against the model; ends with the first that is over after `until`."""
        at, sat, sent = await self.join(), False, 0.0
        match = ""
        async with self.session.get(f"{at}/events") as stream:
            async for line in stream.content:
                if not line.startswith(b"data: "):
                    continue
                if "phase" not in (state := json.loads(line[6:])):  # who is writing
                    continue
                if sent and state["phase"] in ("ask", "over"):
                    self.waits.append(time.monotonic() - sent)
                    sent = 0.0
                if state["phase"] in ("ask", "wait"):
                    sat, match = False, state["match"]
                if state["phase"] == "ask" and state["question"] not in self.answered:
                    self.answered.append(state["question"])
                    sent = time.monotonic()
                    await self.post(f"{at}/say", question=state["question"], text=self.reply(state))
                elif state["phase"] in ("idle", "over", "lost") and not sat:
                    self.over += [match] if state["phase"] == "over" else []
                    if time.monotonic() > until:
                        return
                    sat = True
                    await self.post(f"{at}/sit", alone=True)

    async def post(self, path: str, **body: Any) -> None:
        async with self.session.post(path, json=body) as answer:
            if answer.status != 200:
                self.refused[(await answer.json())["error"]] += 1

    def reply(self, state: dict[str, Any]) -> str:
        name = state["question"].rpartition("/")[2]
        request = Request(name, state["seat"], (), state["kind"], observation=state["seen"])
        return SCRIPT(request, Random(state["question"]), Random(f"{self.number} {state['match']}"))


async def crowd(link: str, pid: int, people: int, seconds: float) -> dict[str, Any]:
    """So many people at once, for so long."""
    base, _, door = link.partition("/join/")
    until, memory = time.monotonic() + seconds, []

    async def watch() -> None:
        while True:
            memory.append(resident(pid))
            await asyncio.sleep(seconds / 10)

    async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None)) as session:
        guests = [Guest(session, base, door, number) for number in range(people)]
        watching = asyncio.create_task(watch())
        await asyncio.wait_for(asyncio.gather(*(guest.play(until) for guest in guests)), seconds + 240)
        watching.cancel()
    waits = [wait for guest in guests for wait in guest.waits]
    cuts = quantiles(waits, n=100)
    return {
        "people": people,
        "seconds": seconds,
        "replies": len(waits),
        "matches": sum(len(guest.over) for guest in guests),
        "p50_s": round(cuts[49], 3),
        "p95_s": round(cuts[94], 3),
        "memory_mib": memory,
        "refused": dict(sum((guest.refused for guest in guests), Counter[str]())),
        "answered": {name for guest in guests for name in guest.answered},
        "over": {name for guest in guests for name in guest.over},
    }


def resident(pid: int) -> int:
    """Resident memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def load(table: Any, run: Path) -> dict[str, Any]:
    """8 people, then 64, against the run's model. No event is lost: what pages answered is what the records have."""
    server = table(run, "table.parts.play.partner=players", "table.per_minute=6000")
    few = asyncio.run(crowd(server.link, server.process.pid, 8, EIGHT_S))
    many = asyncio.run(crowd(server.link, server.process.pid, 64, MANY_S))
    code = server.stop()
    game = instantiate(OmegaConf.load(run / "config.yaml").game)
    stored = {episode.id: episode for episode in Matches(run / "table" / "play")}
    for episode in stored.values():
        replay(game, episode)
    recorded = {
        f"{episode.id}/{turn.request}" for episode in stored.values() for turn in episode.turns
        if episode.players[turn.seat].startswith("person:")
    }  # fmt: skip
    answered, over = (few.pop(key) | many.pop(key) for key in ("answered", "over"))
    wrong = [] if code == 0 else [f"the server ended with {code}"]
    wrong += [f"{len(answered ^ recorded)} replies are at one side only"] if answered != recorded else []
    wrong += [f"{len(over ^ stored.keys())} matches are at one side only"] if over != stored.keys() else []
    wrong += [f"refused: {each['refused']}" for each in (few, many) if each["refused"]]
    ratio = round(many["p95_s"] / few["p95_s"], 2)
    return {"few": few, "many": many, "p95_ratio": ratio, "replies_recorded": len(recorded), "wrong": wrong}


# --- hostile requests ------------------------------------------------------------------------------------------------

TEXTS: list[Any] = [
    *(f"a{chr(code)}b" for code in (*range(9), 11, 12, *range(14, 24))), "\x1b[2Jgone", "\u202eevil", "\u2066x",
    "\u2069", "\x07", "\x9b31m", "x" * 2001, "y" * 15000, 7, None,
    True, [], {}, {"text": "x"}, [["a"]], 1e308, -1, "\x7f", "\x08" * 9, "a\x0bb", "\u202d", "\u2067x",
    "\r\x1b]0;t\x07",
]  # fmt: skip
BODIES = [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe\x00", b"[" * 9000, b'{"text": "\\ud800", "question": "x"}',
    b"{" * 9000,
    b"text=x&question=y", b"x" * 30000, b"\x00" * 100, b'{"question": "x"}', b'{"text": "x"}', b"NaN", b"[1,2",
    b"true",
    b'{"text": "x", "question": {"$ne": 1}}', b'{"__proto__": {"a": 1}}', b"<?xml version='1.0'?><a/>",
]  # fmt: skip
PATHS = [
    "/", "/p/", "/p//play", "/p/wrong/", "/p/wrong/play", "/p/{other}x/play/events", "/join/", "/join/wrong",
    "/static/",
    "/static/../part.py", "/static/..%2fpart.py", "/static/%2e%2e%2f%2e%2e%2fpersons.jsonl",
    "/static/....//part.py",
    "/static/%00", "/static/base.css%00.html", "/static/C:%5Cwindows", "/static//etc/passwd",
    "/p/{mine}/..%2f..%2fpersons.jsonl",
    "/p/{mine}/play/../../doors.json", "/p/{mine}/play/0.jsonl", "/p/{mine}/play/seatings.jsonl", "/persons.jsonl",
    "/table/persons.jsonl", "/p/{mine}/study/export", "/.git/config", "/p/%2e%2e/play",
    "/p/{mine}%0d%0aSet-Cookie:x/play",
    "/p/{mine}/play/say/", "/p/{mine}/play/events/x", "/p/<script>alert(1)</script>/play",
    "/p/{mine}/about/../../x",
]  # fmt: skip
SITES = [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "CROSS-SITE", "evil", "null", "")]
VERBS = ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND", "TRACE")
RAW = [
    b"GARBAGE\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20000 + b"\r\n\r\n",
    b"POST /join/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /join/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzz\r\n",
    b"GET http://evil.example/p/wrong/play HTTP/1.1\r\nHost: evil.example\r\n\r\n",
]  # fmt: skip


def requests(mine: str, other: str, question: str, answered: str) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """(verb, path, headers, body) of everything that should be refused."""
    say, sit = f"/p/{mine}/play/say", f"/p/{mine}/play/sit"
    for text in TEXTS:
        yield "POST", say, JSON, json.dumps({"question": question, "text": text}).encode()
        yield "POST", say, JSON, json.dumps({"question": text, "text": "[message] x"}).encode()
    for body in BODIES:
        yield "POST", say, JSON, body
        yield "POST", sit, {"content-type": "text/plain"}, body
    for path in PATHS:
        yield "GET", path.format(mine=mine, other=other), {}, b""
    good = json.dumps({"question": question, "text": "[message] stolen"}).encode()
    for site in SITES:
        yield "POST", say, {**JSON, **site}, good
        yield "GET", f"/p/{mine}/play/events", site, b""
    for verb in VERBS:
        yield verb, say, JSON, good
    for token in (other, "x", mine[:-1], mine[::-1], mine.swapcase(), mine + "=", "%00", "'", "*", "null"):
        yield "POST", f"/p/{token}/play/say", JSON, good
    for old in (answered, answered.upper(), question + "x", "table/play/x/0/first.1", "../../" + question):
        yield "POST", say, JSON, json.dumps({"question": old, "text": "[message] again"}).encode()
    yield "POST", sit, JSON, b'{"alone": true}'  # who sits already


async def attacked(link: str) -> dict[str, Any]:
    """A match in whose middle everything hostile is sent, and which is then played to its end."""
    base, _, door = link.partition("/join/")
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    async with ClientSession(timeout=ClientTimeout(total=60)) as session:
        guest, other = (Guest(session, base, door, number) for number in range(2))
        at, _ = await guest.join(), await other.join()
        await guest.post(f"{at}/sit", alone=True)
        async with session.get(f"{at}/events") as stream:
            states = (json.loads(line[6:]) async for line in stream.content if line.startswith(b"data: "))
            asked = [each async for each in _asked(states, guest, at, 2)]
            for verb, path, headers, body in requests(guest.token, other.token, asked[1], asked[0]):
                url = URL(base + path, encoded=True)
                async with session.request(verb, url, headers=headers, data=body, allow_redirects=False) as answer:
                    statuses[str(answer.status)] += 1
                    wrong += _unclear(verb, path, answer.status, await answer.read())
            for raw in RAW:
                statuses[found := await _raw(base, raw)] += 1
                wrong += [] if found in ("400", "404", "none") else [f"{raw[:40]!r}: {found}"]
            await guest.post(f"{at}/say", question=asked[1], text="[message] still here")
            ended = [each async for each in _asked(states, guest, at, 1000, asked[1])]
        wrong += [f"refused: {dict(guest.refused)}"] if guest.refused else []
    total = sum(statuses.values())
    return {"requests": total, "statuses": dict(sorted(statuses.items())), "questions": 2 + len(ended), "wrong": wrong}


async def _asked(
    states: AsyncIterator[dict[str, Any]], guest: Guest, at: str, most: int, before: str = ""
) -> AsyncIterator[str]:
    """The questions that come, at most so many, all but the last of them answered; ends with the match."""
    async for state in states:
        if state["phase"] == "over":
            return
        if state["phase"] == "ask" and state["question"] != before:
            yield (before := state["question"])
            if not (most := most - 1):
                return
            await guest.post(f"{at}/say", question=before, text=guest.reply(state))


def _unclear(verb: str, path: str, status: int, body: bytes) -> list[str]:
    """What is wrong with an answer that should be one clear refusal."""
    if not 400 <= status < 500:
        return [f"{verb} {path[:60]}: {status}"]
    try:
        found = {} if verb == "HEAD" else json.loads(body)
        clear = verb == "HEAD" or (list(found) == ["error"] and 0 < len(found["error"]) < 200)
    except ValueError:
        clear = status == 400 and len(body) < 500  # of the HTTP parser: no route was reached
    return [] if clear and b"Traceback" not in body else [f"{verb} {path[:60]}: {body[:200]!r}"]


async def _raw(base: str, data: bytes) -> str:
    """The status that bytes which are no request get, or "none"."""
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        line = await asyncio.wait_for(reader.readline(), 5)
    except (OSError, TimeoutError):
        line = b""
    finally:
        writer.close()
    return line.split()[1].decode() if line.startswith(b"HTTP/") else "none"


def hostile(table: Any, run: Path) -> dict[str, Any]:
    """Everything that should be refused, in the middle of a match, which ends and replays all the same."""
    server = table(run, "table.parts.play.partner=fair", "table.per_minute=60000")
    found = asyncio.run(attacked(server.link))
    (episode,) = Matches(run / "table" / "play")
    replay(instantiate(OmegaConf.load(run / "config.yaml").game), episode)
    said = " ".join(turn.text for turn in episode.turns)
    wrong = found.pop("wrong") + (["a hostile text is in the record"] if "stolen" in said or "again" in said else [])
    wrong += [f"the server ended with {code}"] if (code := server.stop()) else []
    return {**found, "outcome": episode.result.outcome, "wrong": wrong}
