"""Limits the size of a server's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2

from .answer import Unreadable, short

MOST_BYTES = 2**25  # of one answer: enough for 100,000 tokens with their log-probs


async def bound(response: httpx2.Response) -> None:
    """Makes reading `response` raise Unreadable if it is too long, or compressed although that was not requested."""
    bound_sync(response)


def bound_sync(response: httpx2.Response) -> None:
    """The same, for a synchronous client."""
    if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
        raise Unreadable(f"the server's answer is compressed ({short(encoding)}), although that was not requested")
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._size = 0

    def _counted(self, part: bytes) -> bytes:
        self._size += len(part)
        if self._size > MOST_BYTES:
            raise Unreadable(f"the server's answer is longer than {MOST_BYTES >> 20} MiB")
        return part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield self._counted(part)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self._stream)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self._stream.close()
