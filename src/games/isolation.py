"""What foreign rules may not touch: the random state of others, standard output, files, time without end.

Environments of TextArena and game masters of clembench draw from the global generators of `random` and NumPy, some
print, one keeps notes in a file of the current folder, and some can loop for ever.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Overrun(BaseException):
    """A call took more CPU-seconds than it may. No `except Exception` of an environment can swallow it."""


class Enclosure:
    """Runs the calls of one match with a random state of its own, each for at most `cpu_s` CPU-seconds. What a call
    prints, or writes to a file that it opens, is dropped.

    The limit needs the main thread, where alone Python handles signals; elsewhere calls run without one.
    """

    def __init__(self, seed: int, cpu_s: float) -> None:
        self.cpu_s = cpu_s
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """From here on chance comes from `seed`."""
        self._python = random.Random(seed).getstate()
        self._numpy = numpy.random.MT19937(seed) if (numpy := _numpy()) else None

    def run(self, act: Callable[[], T]) -> T:
        """What `act` gives. Raises what it raises, and Overrun."""
        with self._chance(), redirect_stdout(io.StringIO()), _unwritten(), _limited(self.cpu_s):
            return act()

    @contextmanager
    def _chance(self) -> Iterator[None]:
        """Inside the block the global generators are those of the match."""
        outer = random.getstate()
        random.setstate(self._python)
        try:
            with _drawing(self._numpy):
                yield
        finally:
            self._python = random.getstate()
            random.setstate(outer)


def _numpy() -> Any:
    """NumPy where something has imported it: a game imports none."""
    return sys.modules.get("numpy")


@contextmanager
def _drawing(bits: Any) -> Iterator[None]:
    """Inside the block NumPy's global generator draws from `bits`: they are changed over, for copying a state takes 60
    times as long. The change drops the second half of a pair of normal numbers; only that of others is put back."""
    if bits is None:
        yield
        return
    numpy = _numpy().random
    outer, state = numpy.get_bit_generator(), numpy.get_state(legacy=False)
    numpy.set_bit_generator(bits)
    try:
        yield
    finally:
        numpy.set_bit_generator(outer)
        if state.get("has_gauss"):
            numpy.set_state(state)


@contextmanager
def _unwritten() -> Iterator[None]:
    """Inside the block a file that this thread opens for writing is the null device; other threads write as ever."""
    real, inside = io.open, threading.get_ident()

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax+") and not isinstance(file, int) and threading.get_ident() == inside:
            file, mode = os.devnull, mode.replace("x", "w")
        return real(file, mode, *args, **options)

    builtins.open = io.open = opened
    try:
        yield
    finally:
        builtins.open = io.open = real


@contextmanager
def _limited(cpu_s: float) -> Iterator[None]:
    """Raises Overrun inside the block once it has used `cpu_s` CPU-seconds, and again until it is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _overrun)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _overrun(number: int, frame: FrameType | None) -> None:
    raise Overrun
