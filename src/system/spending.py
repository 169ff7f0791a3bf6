"""Costs of requests to paid servers. They are booked before a request is sent, so that ceilings hold even if a run is
killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from secrets import token_hex
from typing import Any

from .files import InputError, parse_line


class SpendingLimit(InputError):
    """The ceiling on requests or on cost is reached; nothing more is sent."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices per million tokens, in any one currency; `cached` is for prompt tokens from the server's cache (None: as
    for others)."""

    prompt: float = 0.0
    completion: float = 0.0
    cached: float | None = None

    def of(self, prompt: int, completion: int, cached: int = 0) -> float:
        """The cost of these numbers of tokens; `cached` is the part of `prompt` from the server's cache."""
        known = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * known + completion * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class Ticket:
    """One booked request, and its largest possible cost."""

    id: str
    most: float


class Ledger:
    """Every request of one backend in one run, in a JSON Lines file shared by all processes of the run.

    A request is booked at its largest possible cost before it is sent, and settled at its real cost. A booking that was
    never settled (the process was killed) counts in full, since the server may have done the work. Each line is written
    at once; a crash of the machine itself may lose the last ones. The line that settles a request contains the answer,
    so a run killed before recording it need not ask again. Without `path` everything is kept in memory only, without
    answers.
    """

    def __init__(
        self, path: Path | None = None, max_requests: int | None = None, max_cost: float | None = None
    ) -> None:
        self.path, self.max_requests, self.max_cost = path, max_requests, max_cost
        self.requests, self.spent = 0, 0.0
        self._held: dict[str, tuple[str, float]] = {}  # ticket -> (request, largest possible cost), until it is settled
        self._answers: dict[str, int] = {}  # request -> where the line with its answer begins
        self._mine: set[str] = set()
        self._name, self._read, self._lines = token_hex(4), 0, 0
        with self._locked():
            pass

    @property
    def held(self) -> float:
        """The largest possible cost of open bookings."""
        return sum(most for _, most in self._held.values())

    def book(self, what: str, most: float) -> Ticket | None:
        """Books the request `what` and returns its ticket; None if it does not fit now, but may after this process has
        settled others.

        SpendingLimit if it does not fit and this process has no open booking.
        """
        with self._locked() as handle:
            if reason := self._over(most):
                if self._mine:
                    return None
                raise SpendingLimit(
                    f"{reason}; {self.path or 'this run'} holds every request. Raise the ceiling, then resume"
                )
            ticket = Ticket(f"{self._name}-{self.requests}", most)
            self._write(handle, {"book": ticket.id, "for": what, "most": most})
            self._mine.add(ticket.id)
        return ticket

    def settle(self, ticket: Ticket, cost: float, facts: Mapping[str, Any] | None = None, answer: Any = None) -> None:
        """Settles a booked request: its cost, further facts (tokens, the model that answered) and its answer (plain
        JSON; None for none)."""
        kept = {} if answer is None else {"answer": answer}
        with self._locked() as handle:
            self._mine.discard(ticket.id)
            self._write(handle, {"settle": ticket.id, "cost": cost, **(facts or {}), **kept})

    def answer(self, what: str) -> Any:
        """The newest stored answer to the request `what`, or None."""
        if self.path is None or what not in self._answers:
            return None
        with open(self.path, "rb") as file:
            file.seek(self._answers[what])
            return json.loads(file.readline())["answer"]

    def _over(self, most: float) -> str:
        """Why a request of at most this cost does not fit; "" if it does."""
        if self.max_requests is not None and self.requests >= self.max_requests:
            return f"the ceiling of {self.max_requests} requests is reached"
        if self.max_cost is not None and self.spent + self.held + most > self.max_cost:
            gone = self.spent + self.held
            return (
                f"the next request may cost {most:.6g}, and of the ceiling of {self.max_cost:g} {gone:.6g} are spent "
                f"or booked"
            )
        return ""

    def _take(self, line: Mapping[str, Any]) -> None:
        """Counts the next line of the file. ValueError for an invalid one, such as a cost that is not finite."""
        ticket, amount = (line["book"], line["most"]) if "book" in line else (line["settle"], line["cost"])
        if not isinstance(ticket, str) or type(amount) not in (int, float) or not 0 <= amount < inf:
            raise ValueError(f"the request {ticket!r} costs {amount!r}, expected a number from 0 on")
        if "book" in line:
            self.requests += 1
            self._held[ticket] = str(line["for"]), amount
            return
        what, _ = self._held.pop(ticket, ("", 0.0))
        self.spent += amount
        if "answer" in line:
            self._answers[what] = self._read

    def _write(self, handle: int | None, line: Mapping[str, Any]) -> None:
        """Appends a line, whole or not at all, and counts it. InputError if the disk refuses it."""
        text = json.dumps(line).encode() + b"\n"
        if handle is not None:
            try:
                written = 0
                while written < len(text):
                    written += os.write(handle, text[written:])
            except OSError as error:
                with suppress(OSError):  # the next process that opens the ledger removes an incomplete line
                    os.ftruncate(handle, self._read)
                raise InputError(
                    f"{self.path}: a request cannot be booked ({error.strerror}): make room, then resume"
                ) from error
        self._take(line)
        if handle is not None:
            self._read += len(text)
            self._lines += 1

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Locks the file and reads the lines of other processes; removes an incomplete last line."""
        if self.path is None:
            yield None
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if (size := os.fstat(handle).st_size) < self._read:
                raise InputError(f"{self.path} was cut while this run used it: put it back, then resume")
            new = os.pread(handle, size - self._read, self._read)
            whole = new[: new.rfind(b"\n") + 1]
            if len(whole) < len(new):
                os.ftruncate(handle, self._read + len(whole))
            for line in whole.split(b"\n")[:-1]:
                self._lines += 1
                parse_line(line, self.path, self._lines, self._take)
                self._read += len(line) + 1
            yield handle
        finally:
            os.close(handle)
