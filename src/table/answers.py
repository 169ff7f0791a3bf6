"""HTTP building blocks of the server: package files, JSON bodies, refusals, event streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from aiohttp import web

from ..games.base import Json
from .part import Refusal

BEAT_S = 15.0  # seconds between two heartbeats in a silent stream, so that proxies do not close it
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def static() -> Mapping[str, bytes]:
    """The package's files for browsers, by name. No other file is ever read for a request."""
    folder = files("parley.table") / "static"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


async def streamed(response: web.StreamResponse, events: Any) -> None:
    """Writes events as they come, and a heartbeat after a silence of `BEAT_S`."""
    await response.write(b"retry: 1000\n\n")
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=BEAT_S)
            if not done:
                await response.write(b": beat\n\n")
                continue
            if (event := coming.result()) is None:
                return
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            coming = asyncio.ensure_future(anext(events, None))
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await coming
        await events.aclose()


async def body(request: web.Request) -> dict[str, Json]:
    """Reads the JSON object in a request's body. Refusal if it is anything else."""
    if request.content_type != "application/json":
        raise Refusal("expected JSON", 415)
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise Refusal("this is not JSON") from None
    if not isinstance(found, dict):
        raise Refusal("expected a JSON object")
    return found


def page(name: str) -> web.Response:
    """A file of `static/`. Refusal if there is none of that name."""
    if (data := static().get(name)) is None:
        raise Refusal("there is no such file", 404)
    kind = KINDS[name[name.rindex(".") :]]
    return web.Response(body=data, content_type=kind, charset=None if kind.startswith("image") else "utf-8")


def refused(request: web.Request, text: str, status: int) -> web.Response:
    """The response to a refused request: a page if a person followed a link, JSON for a script."""
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        told = f"<!doctype html><html lang=en><title>parley</title><h1>parley</h1><p>{escape(text)}</p></html>"
        return web.Response(text=told, content_type="text/html", status=status)
    return web.json_response({"error": text}, status=status)
