"""Search servers that are dead, slow, busy or lie, asked over HTTP by whole matches: nothing is lost, doubled or told
to the wrong one, and a stored match needs none of them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from parley.data.replay import replay
from parley.data.store import Matches
from parley.games.base import Message, Request, Unreachable
from parley.games.qa import QA, TwoHop
from parley.games.qa.remote import HTTP_KEY, SERPAPI_KEY, serpapi, snippet
from parley.play.arena import TooManyFailures
from parley.play.pairing import Seatings, self_play
from parley.play.player import Sampling
from parley.play.seats import Seats
from parley.system.files import InputError, read_jsonl
from parley.system.spending import SpendingLimit

KEY = "a-key-that-must-stand-in-no-file-0123456789"


@dataclass
class Engine:
    """A search engine on loopback. `fault` says what is done instead of an answer, given how often a query came."""

    fault: Callable[[int], str] = lambda times: ""
    asked: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    guard: Any = field(default_factory=Lock)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else {}
        query = body.get("query") or parse_qs(urlsplit(handler.path).query).get("q", [""])[0]
        with self.guard:
            self.asked[query] += 1
            self.headers.append(dict(handler.headers))
            fault = self.fault(self.asked[query])
        if fault == "dead":
            handler.connection.close()
        elif fault == "slow":
            time.sleep(0.5)
            self.send(handler, 200, {"results": [{"text": "late"}]})
        elif fault.isdigit():
            self.send(handler, int(fault), {"error": KEY})
        elif fault == "redirect":
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/elsewhere")
            handler.end_headers()
        elif fault:
            self.send(handler, 200, fault.encode())
        else:
            self.send(
                handler, 200, {"results": [{"text": f"about\n {query}"}], "organic_results": [{"snippet": query}]}
            )

    def send(self, handler: BaseHTTPRequestHandler, status: int, what: Any) -> None:
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with suppress(OSError):  # the one who asked may have gone
            handler.wfile.write(body)


@contextmanager
def serving(engine: Engine) -> Iterator[Engine]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            engine.answer(self)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    engine.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()


def game(url: str, engine: str = "http", **limits: Any) -> QA:
    given = {"parallel": 4, "timeout_s": 30.0, "retries": 3, **limits}
    made = QA(TwoHop(), engine, url=url, limits=given, steps=2, prompt="compact")  # type: ignore[arg-type]
    made.scripts = lambda: {"asker": lambda request, own, persona: asks(request)}  # type: ignore[method-assign]
    return made


def asks(request: Request) -> str:
    """One search for the whole question, and an answer."""
    seen = request.observation or {}
    return "Action: finish[it]" if seen["history"] else f"Action: search[{seen['question']}]"


def play(made: QA, folder: Path, count: int = 12) -> list[Any]:
    different = {each.data["question"]: each for each in made.scenarios("train")}
    planned: Seatings = self_play(made, list(different.values())[:count], "asker", 0, "play", 1)
    seats = Seats(made, lambda: pytest.fail("no model plays"), 16, ledgers=folder / "spending")
    seats.play(folder / "play", planned, Sampling(), {}, lambda count, person: nullcontext(lambda report: None))
    return list(Matches(folder / "play"))


def ends(folder: Path) -> Counter[str]:
    return Counter(line["finish"] for line in read_jsonl(folder / "spending/search.jsonl") if "settle" in line)


def whole(found: Sequence[Any], count: int = 12) -> None:
    assert len({each.id for each in found}) == len(found) == count
    for each in found:
        (search,) = [turn for turn in each.turns if turn.seat == "search"]
        assert search.text.split() == ["about", *each.scenario.data["question"].split()]


LIES = ["no JSON", "[]", "{}", '{"results": [{"text": 3}]}', '{"results": "all"}', "[" * 100_000]


@pytest.mark.parametrize("fault", ["dead", "429", "500", "redirect", *LIES], ids=lambda each: each[:12])
def test_a_server_that_fails_at_first_costs_attempts_and_no_match(tmp_path: Path, fault: str) -> None:
    with serving(Engine(lambda times: fault if times == 1 else "")) as engine:
        whole(play(game(engine.url), tmp_path))
        assert ends(tmp_path) == {"Unreachable": 12, "stop": 12} and set(engine.asked.values()) == {2}


def test_a_slow_server_is_asked_again_and_its_late_answer_dropped(tmp_path: Path) -> None:
    with serving(Engine(lambda times: "slow" if times == 1 else "")) as engine:
        whole(play(game(engine.url, timeout_s=0.2, retries=12), tmp_path))


def test_a_dead_server_leaves_the_matches_owed_and_the_run_goes_on_later(tmp_path: Path) -> None:
    with serving(Engine()) as engine:
        whole(play(game(engine.url), tmp_path, 5), 5)
        asked = dict(engine.asked)
    with pytest.raises(TooManyFailures, match=r"search: 2 attempts, the last: 127\.0\.0\.1"):
        play(game(engine.url, retries=1), tmp_path)
    with serving(Engine()) as again:
        whole(play(game(again.url), tmp_path))
        assert len(asked) == 5 and not asked.keys() & again.asked.keys()  # nothing is asked twice


def test_the_ceiling_counts_every_attempt_over_resumed_runs(tmp_path: Path) -> None:
    with serving(Engine(lambda times: "429" if times == 1 else "")) as engine:
        for _ in range(2):
            with pytest.raises(SpendingLimit, match="ceiling of 9 requests"):
                play(game(engine.url, max_requests=9), tmp_path)
        assert engine.asked.total() == 9
        whole(play(game(engine.url, max_requests=99), tmp_path))


def test_a_stored_match_replays_with_the_engine_gone(tmp_path: Path) -> None:
    with serving(Engine()) as engine:
        found = play(game(engine.url), tmp_path)
    gone = game(engine.url)
    for each in found:
        again = replay(gone, each)
        assert again.result == each.result and again.views["agent"][-1].content == "Action: finish[it]"


def test_a_refused_key_stops_the_run_and_no_key_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HTTP_KEY, KEY)
    monkeypatch.setenv(SERPAPI_KEY, KEY)
    with serving(Engine(lambda times: "401")) as engine:
        for name in ("http", "serpapi"):
            with pytest.raises(InputError, match="refuses the key") as stopped:
                play(game(engine.url, name), tmp_path)
            assert KEY not in str(stopped.value)
    assert engine.headers[0]["Authorization"] == f"Bearer {KEY}"
    with serving(Engine()) as engine:
        found = play(game(engine.url, "serpapi"), tmp_path)
        assert len(found) == 12 and engine.asked.total() == 12
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] + list(capsys.readouterr())
    assert not any(KEY in text for text in texts)


def test_a_redirect_takes_no_key_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERPAPI_KEY, KEY)
    request = Request("search.1", "search", (Message("user", "tea"),), "tool", observation={"argument": "tea"})
    with serving(Engine(lambda times: "redirect")) as engine:
        with pytest.raises(Unreachable, match="status 302"):
            serpapi(engine.url)(request)
        assert engine.asked.total() == 1


def test_serpapi_wants_a_key_and_a_url_of_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERPAPI_KEY, raising=False)
    with pytest.raises(InputError, match="set the environment variable SERPAPI_API_KEY"):
        serpapi(None)
    for url in ("file:///etc/passwd", "ftp://x", "http://me:secret@x/", "localhost"):
        with pytest.raises(InputError, match="must begin with http") as refused:
            serpapi(url)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"answer_box": {"answer": "4", "snippet": "b"}, "organic_results": [{"snippet": "c"}]}, "4"),
        ({"answer_box": [{"snippet": "b"}]}, "b"),
        ({"answer_box": {"snippet_highlighted_words": ["h", "i"]}, "organic_results": [{"snippet": "c"}]}, "h"),
        ({"answer_box": {"type": "map"}, "organic_results": [{"title": "t"}, {"snippet": "d"}]}, ""),
        ({"organic_results": [{"snippet": "c"}]}, "c"),
        ({"organic_results": []}, ""),
        ({}, ""),
    ],
)
def test_which_part_of_googles_answer_is_taken(data: Any, found: str) -> None:
    assert snippet(data) == found
