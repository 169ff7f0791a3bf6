"""Search engines on the network, asked over HTTP: Google through SerpAPI, or any server with a small protocol.

Answers are untrusted: with a wrong size or shape the server counts as unreachable and the request is retried. A refused
key stops the run. Redirects are not followed, so that a key reaches no other server; keys come from the environment and
appear in no message.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

from ...system.files import REFUSED, InputError, reason
from ..base import Json, Request, Unreachable

GOOGLE = "https://serpapi.com/search.json"
SERPAPI_KEY, HTTP_KEY = "SERPAPI_API_KEY", "PARLEY_SEARCH_KEY"
LONGEST = 4_000_000  # bytes of an answer
TIMEOUT_S = 30.0  # of a connection; a tool's `timeout_s` covers the whole request


def serpapi(url: str | None) -> Callable[[Request], str]:
    """Google's first snippet, as in FireAct (arXiv:2310.05915). InputError without a key in SERPAPI_API_KEY."""
    key, place = os.environ.get(SERPAPI_KEY), _checked(url or GOOGLE)
    if not key:
        raise InputError(f"search=serpapi needs a key: set the environment variable {SERPAPI_KEY}")

    def answer(request: Request) -> str:
        asked = {"engine": "google", "gl": "us", "hl": "en", "q": _argument(request), "api_key": key}
        return _shaped(snippet, _fetched(urllib.request.Request(f"{place}?{urlencode(asked)}")), place)

    return answer


def http(url: str, count: int) -> Callable[[Request], str]:
    """A server that accepts POST {"query", "count"} and answers {"results": [{"text"}, …]}, best first."""
    key, place = os.environ.get(HTTP_KEY), _checked(url)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def texts(data: Json) -> str:
        return " ".join(_text(result["text"]) for result in data["results"][:count])

    def answer(request: Request) -> str:
        body = json.dumps({"query": _argument(request), "count": count}).encode()
        return _shaped(texts, _fetched(urllib.request.Request(place, body, headers)), place)

    return answer


def snippet(data: Json) -> str:
    """The answer box's answer, its snippet or first highlighted words, else the first organic result's snippet; ""
    without any of them."""
    boxes: Any = data.get("answer_box") or {}
    box = boxes[0] if isinstance(boxes, list) else boxes
    highlighted = box.get("snippet_highlighted_words") or [None]
    organic = data.get("organic_results") or [{}]
    found = (box.get("answer"), box.get("snippet"), highlighted[0], organic[0].get("snippet"))
    return next((_text(each) for each in found if each), "")


def _argument(request: Request) -> str:
    asked: str = (request.observation or {})["argument"]
    return asked


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    return value


def _checked(url: str) -> str:
    """`url`, if it is an http(s) URL without user name and password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise InputError("search: url must begin with http:// or https://, and hold no user name or password")
    return url


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def _fetched(request: urllib.request.Request) -> bytes:
    """The body of a successful answer. Unreachable if the server fails; InputError if it refuses the key or the
    request."""
    host = request.host
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(LONGEST + 1)
    except HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise InputError(
                f"search: {host} refuses the key (status {error.code}): check {SERPAPI_KEY} or {HTTP_KEY}"
            ) from None
        raise Unreachable(f"{host} answers with status {error.code}") from None
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{host}: {type(error).__name__}") from None
    if len(body) > LONGEST:
        raise Unreachable(f"{host} answers with more than {LONGEST} bytes")
    return body


def _shaped(read: Callable[[Json], str], body: bytes, url: str) -> str:
    """`read` applied to a JSON answer; Unreachable for an answer of another shape."""
    try:
        data = json.loads(body)
        return read(data)
    except (*REFUSED, IndexError) as error:
        raise Unreachable(f"{urlsplit(url).hostname} gives another answer than agreed: {reason(error)[:100]}") from None
