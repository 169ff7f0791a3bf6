"""The pages behind the watchers' link: the list of runs, their reports, and a search in their matches.

GET  runs, report/RUN
GET  matches?run=&outcome=&metric=&least=&most=&after=   a page of matches; all parameters are optional
GET  match/RUN?match=ID
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from aiohttp import web

from ..report.search import Query
from ..system.printing import printable
from . import answers
from .part import Refusal
from .watch import POLICY, Watching, place


class Watchers:
    """The routes below /watch/DOOR/. `through` raises Refusal for a wrong DOOR."""

    def __init__(self, watching: Watching, through: Callable[[web.Request], None]) -> None:
        self.watching, self._through = watching, through

    def routes(self) -> list[web.RouteDef]:
        """The routes for the server's router."""
        at = "/watch/{door}/"
        return [
            web.get(at, self._page),
            web.get(f"{at}runs", self._runs),
            web.get(f"{at}report/{{run}}", self._report),
            web.get(f"{at}matches", self._matches),
            web.get(f"{at}match/{{run}}", self._match),
        ]

    async def _page(self, request: web.Request) -> web.Response:
        self._through(request)
        return answers.page("watch.html")

    async def _runs(self, request: web.Request) -> web.Response:
        self._through(request)
        return web.json_response(await self.watching.listed())

    async def _report(self, request: web.Request) -> web.Response:
        self._through(request)
        return _whole(await self.watching.report(request.match_info["run"]))

    async def _matches(self, request: web.Request) -> web.Response:
        self._through(request)
        asked = request.query
        run, after = asked.get("run", ""), place(asked.get("after", ""))
        return web.json_response(await self.watching.matches(run, _query(asked), after))

    async def _match(self, request: web.Request) -> web.Response:
        self._through(request)
        page = await self.watching.match(request.match_info["run"], request.query.get("match", ""))
        return _whole(page.encode())


def _query(asked: Mapping[str, str]) -> Query:
    """The query in the request's parameters; a missing or empty bound means no bound."""
    try:
        least, most = float(asked.get("least") or -math.inf), float(asked.get("most") or math.inf)
    except ValueError:
        raise Refusal("'least' and 'most' must be numbers") from None
    return Query(printable(asked.get("outcome", "")), printable(asked.get("metric", "")), least, most)


def _whole(page: bytes) -> web.Response:
    """A page that is one file with its style and script inside."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)
