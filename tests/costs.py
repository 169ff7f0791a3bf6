"""What a broken input may cost beside a sound one. Held in stress rounds alone, which say so by PARLEY_STRESS: the time
of one input says little in a suite that shares its processor."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TIMES = 20  # CPU time of a broken input, as a multiple of the sound one's
LEAST_S = 0.05  # CPU-seconds that a sound input is taken to need at least
MEMORY = 512  # MiB by which the process may grow over all inputs


class Costs:
    """The bounds that `sound`, which reads a sound input, sets for broken ones."""

    def __init__(self, sound: Callable[[], Any]) -> None:
        sound()  # what is imported on the way is not of the input
        began = time.process_time()
        sound()
        self._most_s = TIMES * max(LEAST_S, time.process_time() - began)
        self._most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1024 * MEMORY

    @contextmanager
    def bounded(self, what: object) -> Iterator[None]:
        """Holds what is done inside to the bounds, however it ends."""
        began = time.process_time()
        try:
            yield
        finally:
            if "PARLEY_STRESS" in os.environ:
                took, held = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                assert took <= self._most_s, f"{what}: {took:.1f} CPU-seconds, at most {self._most_s:.1f}"
                assert held <= self._most_kib, f"{what}: the process holds {held >> 10} MiB"
