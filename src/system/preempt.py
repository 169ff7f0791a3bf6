"""Being asked to stop, as schedulers do before they take a machine away: SIGTERM or SIGUSR1.

A process that listens ends with exit code 75 (EX_TEMPFAIL of sysexits.h: try again later), on which schedulers queue
the job again. It ends at once, since what a run has finished is on disk; while it holds what would be lost, it notes
the signal and saves first.
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
    """What is done with the signals: the process ends, or while `holding` it is only noted that one was `asked`."""

    def __init__(self) -> None:
        self.asked = self.holding = False

    def listen(self) -> None:
        """Takes over the signals' handlers, whosever they were. Outside the main thread nothing can be heard."""
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                signal.signal(each, self._heard)

    def _heard(self, *_: object) -> None:
        if not self.holding:
            sys.exit(CODE)
        self.asked = True


@contextmanager
def listening() -> Iterator[Stop]:
    """Listens while the block runs; the handlers of before come back after it."""
    stop = Stop()
    before = {each: signal.getsignal(each) for each in SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for each, handler in before.items():
                signal.signal(each, handler)
