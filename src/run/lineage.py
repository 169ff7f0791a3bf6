"""The descent of snapshots: an iteration begins at the one before, or at an earlier one after a rollback or an
exploiter's restart."""

from __future__ import annotations


class Lineage:
    """For each policy the iteration at whose snapshot an iteration begins."""

    def __init__(self) -> None:
        self.rolled: list[int] = []  # iterations after a rollback, each at half the learning rate of before
        self._earlier: dict[tuple[str, int], int] = {}

    def begin(self, policy: str, number: int, at: int) -> None:
        """Lets `policy` begin iteration `number` at the snapshot of iteration `at`."""
        self._earlier[policy, number] = at

    def parent(self, policy: str, number: int) -> int:
        """The iteration at whose snapshot `policy` begins iteration `number`."""
        return self._earlier.get((policy, number), number - 1)

    def ancestors(self, policy: str, number: int) -> list[int]:
        """The iterations that led to iteration `number`: the start (0) first, `number` itself last."""
        found = [number]
        while found[-1] > 0:
            found.append(self.parent(policy, found[-1]))
        return found[::-1]

    def magnet(self, policy: str, number: int, every: int) -> int:
        """The iteration whose snapshot `reference=previous` means in iteration `number`: the newest ancestor at the
        last multiple of `every` before `number`, or before it."""
        last = (number - 1) // every * every
        return max(at for at in self.ancestors(policy, number) if at <= last)
