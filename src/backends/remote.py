"""The base of backends that call servers: requests run in one background thread, so that `poll` never blocks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from ..play.player import Completion, Prompt


class Remote(ABC):
    """Answers each prompt by a task that calls `_answer`. All other methods run in the caller's thread."""

    busy = False  # it only ever waits

    def __init__(self) -> None:
        self._open: dict[str, tuple[Prompt, Future[Completion]]] = {}
        self._done: SimpleQueue[tuple[Prompt, Future[Completion]]] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """ValueError for a prompt that cannot be asked (see `_check`)."""
        for prompt in prompts:
            self._check(prompt)
            future = asyncio.run_coroutine_threadsafe(self._answer(prompt), self._loop)
            self._open[prompt.id] = prompt, future
            future.add_done_callback(partial(self._put, prompt))

    def _put(self, prompt: Prompt, done: Future[Completion]) -> None:
        self._done.put((prompt, done))

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Finished answers; waits at most `wait_s` seconds for the first. Raises exceptions of `_answer`."""
        found: list[Completion] = []
        while True:
            try:
                prompt, future = self._done.get(timeout=wait_s) if wait_s > 0 and not found else self._done.get_nowait()
            except Empty:
                return found
            if self._open.get(prompt.id) != (prompt, future):
                continue  # it was cancelled meanwhile
            if future.exception() is not None and found:
                self._done.put((prompt, future))  # first deliver the paid answers
                return found
            del self._open[prompt.id]
            found.append(future.result())

    def cancel(self, ids: Sequence[str]) -> None:
        for prompt in ids:
            if (asked := self._open.pop(prompt, None)) is not None:
                asked[1].cancel()

    def close(self) -> None:
        """Drops open prompts, closes the connections and ends the thread."""
        self.cancel(list(self._open))
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._end()

    # --- implemented by each backend ---

    @abstractmethod
    def _check(self, prompt: Prompt) -> None:
        """ValueError for a prompt that cannot be asked."""

    @abstractmethod
    async def _answer(self, prompt: Prompt) -> Completion:
        """The prompt's completion; runs in the event loop's thread."""

    @abstractmethod
    async def _end(self) -> None:
        """Closes the connections; runs in the event loop's thread."""
