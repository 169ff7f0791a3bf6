"""An OpenAI-style server on loopback: chat completions, files, fine-tuning jobs, and everything that can go wrong on
the way.

`PARLEY_TEST_SERVER=http://host:port/v1` puts a real server (vLLM's) behind it: chat requests are passed on to that one,
the faults stay. `PARLEY_TEST_MODEL` names its model; without it the first that it lists is taken.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

REAL = os.environ.get("PARLEY_TEST_SERVER", "").rstrip("/")
KEY = "sk-a-key-that-must-stand-in-no-file-0123456789"
Talk = Callable[[dict[str, Any]], dict[str, Any]]


def model_name() -> str:
    """The model to ask for."""
    if not REAL:
        return "some-model"
    return os.environ.get("PARLEY_TEST_MODEL") or _fetch(f"{REAL}/models", None)["data"][0]["id"]


def _fetch(url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", "Authorization": "Bearer none"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def completion(body: dict[str, Any], text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion as such servers write it, which bills a token for each word."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    for name in ("token_ids", "logprobs", "refusal"):
        if name in more:
            (choice["message"] if name == "refusal" else choice)[name] = more.pop(name)  # type: ignore[index]
    words = sum(len(message["content"].split()) for message in body["messages"])
    usage = {
        "prompt_tokens": words,
        "completion_tokens": len((text or "").split()),
        "total_tokens": words + len((text or "").split()),
    }
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": f"{body['model']}-2026-01-01"}
    return {**head, "choices": [choice], "usage": usage, **more}


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """A reply that the request's seed decides."""
    return completion(body, f"{body.get('seed', 0) % 100} it is")


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that come at once


class Server:
    """The server. `faults` are spent one for each request whose "METHOD path" begins with `where`, whatever it asks
    for."""

    def __init__(
        self, talk: Talk = echo, faults: Iterable[str] = (), where: str = "POST /v1/chat", delay_s: float = 0.0
    ) -> None:
        self.talk = (lambda body: _fetch(f"{REAL}/chat/completions", body)) if REAL and talk is echo else talk
        self.faults, self.where, self.delay_s, self.lock = list(faults), where, delay_s, Lock()
        self.asked: list[dict[str, Any]] = []  # bodies of chat requests
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.answered = self.flying = self.most_flying = 0
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.raw: tuple[int, dict[str, str], bytes] = 200, {}, b""  # what the fault "raw" sends
        self.looks = 2  # at a job until it has ended
        self.ending = "succeeded"
        self.http = Http(("127.0.0.1", 0), self._handler())
        Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.serve(self, b"")

            def do_POST(self) -> None:
                outer.serve(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def serve(self, http: BaseHTTPRequestHandler, data: bytes) -> None:
        what = f"{http.command} {http.path}"
        with self.lock:
            fault = self.faults.pop(0) if self.faults and what.startswith(self.where) else ""
            self.times.append(time.monotonic())
            self.headers.append({name.lower(): value for name, value in http.headers.items()})
            self.flying += 1
            self.most_flying = max(self.most_flying, self.flying)
            if "/chat/" in http.path:
                self.asked.append(json.loads(data))
        try:
            self._serve(http, data, what, fault)
        finally:
            with self.lock:
                self.flying -= 1

    def _serve(self, http: BaseHTTPRequestHandler, data: bytes, what: str, fault: str) -> None:
        time.sleep(self.delay_s)
        name, _, detail = fault.partition(" ")
        if name.isdecimal():
            error = {
                "message": f"trouble {name} for {http.headers.get('Authorization')}",
                "type": "x",
                "code": detail or None,
            }
            headers = (
                {"Retry-After": detail}
                if name == "429" and detail and not detail.isalpha() and "_" not in detail
                else {}
            )
            return self._send(http, int(name), {"error": error}, headers)
        if name == "hang":
            time.sleep(float(detail or 1))
            http.close_connection = True
            return None
        if name == "raw":
            return self._raw(http, *self.raw)
        answer = json.dumps(self._answer(http, data, what)).encode()
        if name == "json":
            answer = answer[:-9]
        if name == "shape":
            answer = b'{"choices": "none"}'
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(answer)))
        http.end_headers()
        if name == "half":
            http.wfile.write(answer[: len(answer) // 2])
            http.wfile.flush()
            http.close_connection = True
            http.connection.shutdown(2)
            return None
        http.wfile.write(answer)
        self.answered += not name
        return None

    def _send(self, http: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str]) -> None:
        self._raw(http, status, headers, json.dumps(body).encode())

    def _raw(self, http: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
        http.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            http.send_header(name, value)
        http.end_headers()
        with suppress(ConnectionError):  # whoever has read enough hangs up
            http.wfile.write(data)

    # --- what it does when nothing goes wrong ---

    def _answer(self, http: BaseHTTPRequestHandler, data: bytes, what: str) -> Any:
        path = http.path.partition("?")[0]
        if "/chat/" in path:
            return self.talk(json.loads(data))
        with self.lock:
            if what.startswith("POST /v1/files"):
                return self._upload(http.headers["Content-Type"], data)
            if what.startswith("GET /v1/files"):
                return _page([_file(id, name) for id, (name, _) in reversed(self.files.items())])
            if what == "POST /v1/fine_tuning/jobs":
                return self._job(json.loads(data))
            if path.endswith("/events"):
                job = self.jobs[path.split("/")[-2]]
                return _page([_event(step) for step in reversed(range(1, job["looked"] + 1))])
            if match := re.fullmatch(r"/v1/fine_tuning/jobs/([\w-]+)", path):
                return self._look(self.jobs[match[1]])
            return _page(list(reversed(self.jobs.values())))

    def _upload(self, kind: str, data: bytes) -> dict[str, Any]:
        parts = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + data).get_payload()
        [part] = [part for part in parts if part.get_filename()]  # type: ignore[union-attr]
        id = f"file-{len(self.files) + 1}"
        self.files[id] = part.get_filename(), part.get_payload(decode=True)  # type: ignore[union-attr]
        return _file(id, self.files[id][0])

    def _job(self, asked: dict[str, Any]) -> dict[str, Any]:
        id = f"ftjob-{len(self.jobs) + 1}"
        head = {
            "id": id,
            "object": "fine_tuning.job",
            "created_at": 1,
            "status": "running",
            "organization_id": "o",
            "result_files": [],
        }
        self.jobs[id] = {**head, "fine_tuned_model": None, "trained_tokens": None, "error": None, "looked": 0, **asked}
        return self.jobs[id]

    def _look(self, job: dict[str, Any]) -> dict[str, Any]:
        job["looked"] += 1
        if job["looked"] >= self.looks:
            job["status"] = self.ending
            if self.ending == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['model'].removeprefix('ft:')}+", "trained_tokens": 1000}
            else:
                job["error"] = {"code": "x", "message": "the file was no good", "param": None}
        return job


def _page(data: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": False, "first_id": None, "last_id": None}


def _file(id: str, name: str) -> dict[str, Any]:
    return {
        "id": id,
        "object": "file",
        "bytes": 1,
        "created_at": 1,
        "filename": name,
        "purpose": "fine-tune",
        "status": "processed",
    }


def _event(step: int) -> dict[str, Any]:
    data = {"step": step, "total_steps": 4, "train_loss": 1.0 / step}
    head = {"object": "fine_tuning.job.event", "id": f"e{step}", "created_at": step, "level": "info"}
    return {**head, "type": "metrics", "message": f"Step {step}", "data": data}
