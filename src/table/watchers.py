"""The pages of who has the watchers' link: the list of runs, and their reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from . import answers
from .watch import POLICY, Watching


class Watchers:
    """The routes below /watch/DOOR/ for the runs in `folders`. `through` refuses who does not have the link."""

    def __init__(self, folders: Sequence[str], through: Callable[[web.Request], None]) -> None:
        self.watching, self._through = Watching(folders), through

    def routes(self) -> list[web.RouteDef]:
        """All of them, for the server's router."""
        at = "/watch/{door}/"
        return [
            web.get(at, self._page),
            web.get(f"{at}runs", self._runs),
            web.get(f"{at}report/{{run}}", self._report),
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


def _whole(page: bytes) -> web.Response:
    """A page that is one file with its style and script inside."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)
