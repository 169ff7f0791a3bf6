"""The table of credit's decisions, one per log, kept on disk because a round may not fit into memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import overload

IN_MEMORY = 1 << 18  # bytes of a table; a larger one goes to an unnamed temporary file


@dataclass(frozen=True, slots=True)
class Verdict:
    """Credit's decision about one log: its score (None if missing), the bar that it had to pass (None if the rule has
    none), and the reason.

    `replies` are the request ids of the chosen replies, and `worse` those among them without a positive reward, which
    nobody should imitate. `recorded` tells whether their token ids are known.
    """

    match: str
    scenario: str
    seat: str
    score: float | None
    bar: float | None
    kept: bool
    why: str
    replies: tuple[str, ...] = ()
    recorded: bool = True
    worse: tuple[str, ...] = ()

    @property
    def good(self) -> tuple[str, ...]:
        """The chosen replies that are worth imitating, for a learner or a file that has no place for rewards."""
        return tuple(request for request in self.replies if request not in self.worse)


class Verdicts(Sequence[Verdict]):
    """Verdicts in the order of appending. Memory holds only the offset of each one's line of JSON."""

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with the table
        self._starts = array("Q")
        for verdict in verdicts:
            self.append(verdict)

    def append(self, verdict: Verdict) -> None:
        self._file.seek(0, 2)
        self._starts.append(self._file.tell())
        self._file.write(json.dumps(_FIELDS(verdict), separators=(",", ":"), default=float).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Verdict: ...
    @overload
    def __getitem__(self, at: slice) -> list[Verdict]: ...
    def __getitem__(self, at: int | slice) -> Verdict | list[Verdict]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        self._file.seek(self._starts[at])
        row = json.loads(self._file.readline())
        row[-3], row[-1] = tuple(row[-3]), tuple(row[-1])  # replies and worse
        return Verdict(*row)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Verdicts)
            and len(self) == len(other)
            and all(mine == its for mine, its in zip(self, other, strict=True))
        )


_FIELDS = attrgetter(*Verdict.__slots__)
