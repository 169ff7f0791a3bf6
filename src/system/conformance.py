"""The error of the conformance kits for games and objectives."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A game or an objective broke its contract. `check` is the name of the check that found it."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check


def need(check: str, true: bool, what: str) -> None:
    """Raises ConformanceError unless `true`."""
    if not true:
        raise ConformanceError(check, what)
