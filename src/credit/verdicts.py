"""The table of credit's decisions, one a log, kept on disk because a round may be larger than memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import overload

IN_MEMORY = 1 << 18  # bytes of a table; what goes beyond lies in a file without a name


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one log: its score (None where it is missing), the bar that it had to pass (None where the rule
    has none), and why.

    `replies` are the requests whose replies were chosen, `recorded` says whether their token ids are known.
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


class Verdicts(Sequence[Verdict]):
    """Verdicts in the order in which they were appended. Of each, memory holds where its line of JSON begins."""

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - it goes with the table
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
        row[-2] = tuple(row[-2])
        return Verdict(*row)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Verdicts)
            and len(self) == len(other)
            and all(mine == its for mine, its in zip(self, other, strict=True))
        )


_FIELDS = attrgetter(*Verdict.__slots__)
