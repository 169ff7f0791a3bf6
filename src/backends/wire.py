"""Limits the size of a server's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from .answer import Unreadable, short

MOST_BYTES = 2**25  # of one answer: enough for 100,000 tokens with their log-probs


async def bound(response: httpx2.Response) -> None:
    """Makes reading `response` raise Unreadable if it is too long, or compressed although that was not requested."""
    if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
        raise Unreadable(f"the server's answer is compressed ({short(encoding)}), although that was not requested")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MOST_BYTES:
                raise Unreadable(f"the server's answer is longer than {MOST_BYTES >> 20} MiB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
