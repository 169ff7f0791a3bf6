"""Tool players: call external services in threads, with timeouts and retries, without blocking other players."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from ..data.episode import Turn
from ..games.base import Request, Script, Tool, Unreachable
from ..system.spending import Ledger, Ticket
from .player import Completion, Player, Prompt
from .players import ScriptedPlayer

BACKOFF_S = 0.1  # seconds before the second attempt of a request; doubles for each further one
LONGEST_S = 10.0


def service(what: Script | Tool, name: str, ledgers: Path | None = None) -> Player:
    """The player of a game's service. `ledgers` is the folder for the ledger of a tool's requests (None: in memory)."""
    if not isinstance(what, Tool):
        return ScriptedPlayer(what, name)
    path = None if ledgers is None else ledgers / f"{name}.jsonl"
    return ToolPlayer(what, name, Ledger(path, max_requests=what.max_requests))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a request. `number` counts from 0, `began` is in seconds of the monotonic clock."""

    prompt: Prompt
    number: int
    ticket: Ticket
    began: float


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of an attempt: a reply, or an exception."""

    attempt: _Attempt
    reply: str | Exception
    seconds: float


class ToolPlayer:
    """Calls a tool, up to `tool.parallel` requests at a time, each in its own thread.

    A request that raises Unreachable, or takes longer than `tool.timeout_s` seconds, is retried up to `tool.retries`
    times and then lost (finish "error": its match stays owed). Late answers are dropped. Other exceptions stop the run;
    so does SpendingLimit, once `tool.max_requests` are used up.
    """

    busy = False

    def __init__(self, tool: Tool, name: str, ledger: Ledger) -> None:
        self.tool, self.name, self.ledger = tool, name, ledger
        self._waiting: deque[tuple[Prompt, int, float]] = deque()  # (prompt, attempts so far, earliest start)
        self._running: dict[str, _Attempt] = {}
        self._done: Queue[_Ended] = Queue()

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self._waiting.extend((prompt, 0, 0.0) for prompt in prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """Starts waiting requests; returns finished answers, after waiting at most `wait_s` seconds."""
        self._send()
        ended = [*self._come(wait_s), *self._late()]
        return [done for each in ended if (done := self._completion(each)) is not None]

    def cancel(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._waiting = deque(each for each in self._waiting if each[0].id not in gone)
        for prompt in gone & self._running.keys():
            self.ledger.settle(self._running.pop(prompt).ticket, 0.0, {"finish": "cancelled"})

    def close(self) -> None:
        self.cancel([*(prompt.id for prompt, _, _ in self._waiting), *self._running])

    def recall(self, prompt: Prompt, turn: Turn) -> str:
        return self.name

    def _send(self) -> None:
        """Starts the attempts that are due, within the limits of tool and ledger."""
        for _ in range(len(self._waiting)):
            prompt, number, due = self._waiting.popleft()
            room = len(self._running) < self.tool.parallel and due <= time.monotonic()
            if not room or (ticket := self.ledger.book(prompt.id, 0.0)) is None:
                self._waiting.append((prompt, number, due))
                continue
            answer = self.tool.answer  # outside the thread, because it is built once
            attempt = self._running[prompt.id] = _Attempt(prompt, number, ticket, time.monotonic())
            Thread(target=self._ask, args=(answer, attempt), name=f"tool {self.name}", daemon=True).start()

    def _ask(self, answer: Callable[[Request], str], attempt: _Attempt) -> None:
        """Makes one attempt; runs in its own thread."""
        prompt = attempt.prompt
        request = Request(prompt.request, prompt.seat, prompt.messages, prompt.kind, prompt.options, prompt.observation)
        reply: str | Exception
        try:
            reply = answer(request)
        except Exception as error:  # raised again in the run's thread
            reply = error
        self._done.put(_Ended(attempt, reply, time.monotonic() - attempt.began))

    def _come(self, wait_s: float) -> Iterator[_Ended]:
        """The finished attempts, without cancelled ones."""
        with suppress(Empty):
            ended = self._done.get(timeout=wait_s) if wait_s > 0 else self._done.get_nowait()
            while True:
                if self._running.get(ended.attempt.prompt.id) is ended.attempt:
                    yield ended
                ended = self._done.get_nowait()

    def _late(self) -> Iterator[_Ended]:
        """The attempts that time out; their threads are abandoned."""
        for attempt in list(self._running.values()):
            if (seconds := time.monotonic() - attempt.began) > self.tool.timeout_s:
                yield _Ended(attempt, Unreachable(f"no answer within {self.tool.timeout_s:g} s"), seconds)

    def _completion(self, ended: _Ended) -> Completion | None:
        """The completion; None if the request is retried."""
        attempt, reply = ended.attempt, ended.reply
        prompt, number = attempt.prompt, attempt.number + 1
        del self._running[prompt.id]
        finish = "stop" if isinstance(reply, str) else type(reply).__name__
        self.ledger.settle(attempt.ticket, 0.0, {"finish": finish, "seconds": round(ended.seconds, 3)})
        if isinstance(reply, str):
            return Completion(prompt.id, reply, policy=self.name, seconds=ended.seconds)
        if not isinstance(reply, Unreachable):
            raise reply
        if number <= self.tool.retries:
            pause = min(LONGEST_S, BACKOFF_S * 2**attempt.number)
            self._waiting.append((prompt, number, time.monotonic() + pause))
            return None
        return Completion(prompt.id, f"{number} attempts, the last: {reply}", "error", policy=self.name)
