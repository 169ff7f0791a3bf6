"""Preemption: schedulers send SIGTERM or SIGUSR1 before they take a machine away.

A listening process exits with code 75 (EX_TEMPFAIL of sysexits.h: try again later), on which schedulers requeue the
job. It exits at once, since finished work is on disk; while it holds unsaved work, it only notes the signal, and saves
first.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Handles the signals: the process exits, or while `holding`, only `asked` is set."""

    def __init__(self) -> None:
        self.asked = self.holding = False

    def listen(self) -> None:
        """Replaces the signals' handlers. Does nothing outside the main thread, where signals cannot be handled."""
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                signal.signal(each, self._heard)

    def _heard(self, *_: object) -> None:
        if not self.holding:
            sys.exit(CODE)
        self.asked = True


@contextmanager
def listening() -> Iterator[Stop]:
    """Listens during the block; then restores the earlier handlers."""
    stop = Stop()
    before = {each: signal.getsignal(each) for each in SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for each, handler in before.items():
                signal.signal(each, handler)
