"""The web server and its security checks: one event loop, pages from the package, JSON, server-sent events.

It speaks plain HTTP, for the loopback interface or behind a reverse proxy that adds TLS.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from aiohttp import web

from ..games.base import Json
from ..run.config import ConfigError
from ..system.bounds import Count, Least, Most, Positive
from . import answers
from .part import Desk, Part, Refusal, Served, Stream, Take
from .persons import Person, Persons, digest
from .watch import Watching
from .watchers import Watchers

LOG = logging.getLogger(__name__)
WORDS = {404: "there is no such page", 405: "this page does not accept this kind of request"}
INDEXES = "search"  # subfolder of the table with the search indexes of watched runs
NEAR = ("same-origin", "none")  # Sec-Fetch-Site of our own pages, and of an address typed by a person


@dataclass(frozen=True)
class Serving:
    """The settings of the server.

    host           interface to listen on; the default is loopback only
    port           0 takes a free port
    parts          the parts of the site by name, each an object with `open` (see `Part`)
    outer_keys     query parameters in which another service passes its id of a person
    max_bytes      most bytes of one request
    per_minute     most requests per minute of one person, or of one address without a person
    streams        most open event streams per person
    forms_to       origins to which pages may post a form
    framed_by      origins that may show the pages in a frame
    preview        query parameters and values that mark a visitor in preview, who sees what it is about and is not
                   registered
    watched        folders whose runs the watchers' link shows; empty: there is no such link
    address_header  header in which a reverse proxy passes the client's address, such as X-Forwarded-For; "": none, for
                   without a proxy anybody could set it
    """

    parts: Mapping[str, Any]
    host: str
    port: Annotated[int, Least(0), Most(65535)]
    outer_keys: list[str]
    max_bytes: Count
    per_minute: Positive
    streams: Count
    forms_to: list[str]
    framed_by: list[str]
    preview: dict[str, str]
    watched: list[str] = field(default_factory=list)
    address_header: str = ""

    @property
    def policy(self) -> str:
        """The content security policy of every response."""
        forms, frames = (" ".join(each) or "'none'" for each in (self.forms_to, self.framed_by))
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
            f"base-uri 'none'; form-action {forms}; frame-ancestors {frames}"
        )


class Rate:
    """Limits requests by a token bucket per name, which holds a minute's requests and refills steadily."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._used: dict[str, tuple[float, float]] = {}  # name -> (requests counted, time)

    def take(self, name: str) -> bool:
        """Counts one more request of `name` and returns True if it is within the rate, else False."""
        now = self.clock()
        used, then = self._used.get(name, (0.0, now))
        used = max(0.0, used - (now - then) * self.per_minute / 60)
        if len(self._used) > 10_000:  # forget names idle for a minute
            self._used = {key: each for key, each in self._used.items() if now - each[1] < 60}
        if used + 1 > self.per_minute:
            return False
        self._used[name] = used + 1, now
        return True


class Site:
    """The routes of all parts, and the checks before them."""

    def __init__(self, parts: Mapping[str, Served], persons: Persons, serving: Serving) -> None:
        self.parts, self.persons, self.serving = parts, persons, serving
        self.rate, self.streaming = Rate(serving.per_minute), Counter[str]()
        self.watchers = Watchers(
            Watching(serving.watched, persons.folder / INDEXES), partial(self._through, door="watch")
        )

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guarded], client_max_size=self.serving.max_bytes)
        app.on_response_prepare.append(self._headers)
        app.router.add_get("/", self._nobody)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/join/{door}", self._door)
        app.router.add_post("/join/{door}", self._join)
        app.router.add_get("/p/{token}/", self._home)
        app.router.add_get("/p/{token}/about", self._about)
        app.router.add_routes(self.watchers.routes())
        for name, part in self.parts.items():
            at = f"/p/{{token}}/{name}"
            app.router.add_get(at, partial(self._page, part))
            for word, read in part.reads.items():
                app.router.add_get(f"{at}/{word}", partial(self._read, name, read))
            for word, take in part.takes.items():
                app.router.add_post(f"{at}/{word}", partial(self._take, name, take))
            for word, stream in part.streams.items():
                app.router.add_get(f"{at}/{word}", partial(self._stream, name, stream))
        return app

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._near(request)
            return await handler(request)
        except Refusal as refusal:
            return answers.refused(request, str(refusal), refusal.status)
        except web.HTTPRequestEntityTooLarge:
            return answers.refused(request, f"a request may have {self.serving.max_bytes:,} bytes: send less", 413)
        except web.HTTPException as error:
            return answers.refused(request, WORDS.get(error.status, error.reason), error.status)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            LOG.exception("a request failed")  # the path is not logged, for it holds a token
            return answers.refused(request, "the table made a mistake: try again", 500)

    def _near(self, request: web.Request) -> None:
        """Refuses requests that other sites' pages make a browser send. Links from anywhere to a page are fine."""
        site = request.headers.get("Sec-Fetch-Site", "none")
        link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in NEAR and not link:
            raise Refusal("this request comes from another site", 403)

    async def _headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("Content-Security-Policy", self.serving.policy)
        response.headers.update(
            {
                "Referrer-Policy": "no-referrer",  # the path holds a token
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Cross-Origin-Resource-Policy": "same-origin",
            }
        )

    def _address(self, request: web.Request) -> str:
        """The client's address; of `address_header` the last entry, which the proxy has added."""
        told = request.headers.get(self.serving.address_header, "") if self.serving.address_header else ""
        return told.rpartition(",")[2].strip()[:64] or str(request.remote)

    def _counted(self, name: str) -> None:
        if not self.rate.take(name):
            raise Refusal("too many requests: wait a moment", 429)

    def _person(self, request: web.Request) -> Person:
        person = self.persons.of(request.match_info["token"])
        self._counted(person.id if person else self._address(request))
        if person is None:
            raise Refusal("this link is not valid: ask for a new one", 404)
        return person

    def _may(self, name: str, person: Person) -> None:
        """Refuses a part while another one holds the person."""
        for other, part in self.parts.items():
            if other != name and (why := part.holds(person)):
                raise Refusal(why, 403)

    async def _nobody(self, request: web.Request) -> web.Response:
        raise Refusal("you need an invitation link: ask the people who run this table", 404)

    async def _static(self, request: web.Request) -> web.Response:
        return answers.page(request.match_info["name"])

    async def _door(self, request: web.Request) -> web.Response:
        self._through(request, "join")
        return answers.page("join.html")

    async def _join(self, request: web.Request) -> web.Response:
        self._through(request, "join")
        given = {key: value for key, value in (await answers.body(request)).items() if isinstance(value, str)}
        if any(given.get(key) == value for key, value in self.serving.preview.items()):
            return web.json_response({"preview": [part.about for part in self.parts.values() if part.about]})
        _, token = self.persons.join(given)
        return web.json_response({"token": token})

    def _through(self, request: web.Request, door: str) -> None:
        self._counted(self._address(request))
        there = door == "join" or bool(self.serving.watched)
        if not there or digest(request.match_info["door"]) != digest(self.persons.door(door)):  # against timing
            raise Refusal("this link is not valid: ask for a new one", 404)

    async def _home(self, request: web.Request) -> web.Response:
        self._person(request)
        return answers.page("home.html")

    async def _about(self, request: web.Request) -> web.Response:
        person = self._person(request)
        held = next((name for name, part in self.parts.items() if part.holds(person)), None)
        shown = [{"name": name, "title": part.title} for name, part in self.parts.items()]
        return web.json_response({"parts": shown, "held": held})

    async def _page(self, part: Served, request: web.Request) -> web.Response:
        self._person(request)
        return answers.page(part.page)

    async def _read(self, name: str, read: Callable[[Person], Awaitable[Json]], request: web.Request) -> web.Response:
        person = self._person(request)
        self._may(name, person)
        return web.json_response(await read(person))

    async def _take(self, name: str, take: Take, request: web.Request) -> web.Response:
        person = self._person(request)
        self._may(name, person)
        return web.json_response(await take(person, await answers.body(request)))

    async def _stream(self, name: str, stream: Stream, request: web.Request) -> web.StreamResponse:
        """Sends server-sent events until the page closes or the stream ends."""
        person = self._person(request)
        self._may(name, person)
        if self.streaming[person.id] >= self.serving.streams:
            raise Refusal("this table is open in too many windows: close one", 429)
        self.streaming[person.id] += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            try:
                await answers.streamed(response, stream(person))
            except ConnectionError:  # the page is gone
                pass
            except Exception:  # too late for an error status, for the head is sent; the page reconnects
                LOG.exception("a stream failed")
            return response
        finally:
            self.streaming[person.id] -= 1
            self.streaming += Counter()  # drops entries of 0


async def serve(
    serving: Serving,
    parts: Mapping[str, Part],
    desk: Callable[[str], Desk],
    persons: Persons,
    say: Callable[[str, str | None], None],
) -> None:
    """Serves until Ctrl-C or SIGTERM. Calls `say` with the invitation link once people can come, and with the watchers'
    link if there is one. ConfigError if the port cannot be used."""
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, NotImplementedError):  # signals can be handled in the main thread only
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with AsyncExitStack() as held:
        served = {name: await held.enter_async_context(part.open(desk(name))) for name, part in parts.items()}
        runner = web.AppRunner(Site(served, persons, serving).application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        held.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, serving.host, serving.port)
        try:
            await site.start()
        except OSError as error:
            at = f"{serving.host}:{serving.port}"
            raise ConfigError(f"table.port: nobody can listen at {at} ({error.strerror}); say another") from error
        port = runner.addresses[0][1]
        shown = f"[{serving.host}]" if ":" in serving.host else serving.host
        base = f"http://{shown}:{port}"
        say(
            f"{base}/join/{persons.door('join')}", f"{base}/watch/{persons.door('watch')}/" if serving.watched else None
        )
        await stop.wait()
