"""The journal: turns of unfinished matches, written during play, so that a killed match resumes in the middle.

A finished match is an episode in the store; the journal holds the turns of open ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..system.files import parse_line
from .episode import Turn, turn_from_json, written
from .store import repair


class Journal:
    """The journal of one process of a stage, `<folder>/open-<rank>.jsonl`: call it with a match's id and a turn.

    Opening it reads the turns that earlier processes of all ranks wrote. A line torn by a kill is cut off, and its
    request is asked again. ValueError names the file and line of an invalid turn.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"open-{rank}.jsonl"
        repair(self._path)
        self._turns: dict[str, list[Turn]] = {}
        for path in sorted(self.folder.glob("open-*.jsonl")):
            self._read(path)
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - the journal closes it

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, match: str, turn: Turn) -> None:
        line = json.dumps({"match": match, "turn": turn}, separators=(",", ":"), allow_nan=False, default=written)
        self._file.write(line.encode() + b"\n")

    def turns(self, match: str) -> tuple[Turn, ...]:
        """The turns of a match that earlier processes wrote; () if it was not begun."""
        return tuple(self._turns.get(match, ()))

    def _read(self, path: Path) -> None:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    match, turn = parse_line(
                        line, path, number, lambda row: (str(row["match"]), turn_from_json(row["turn"]))
                    )
                    self._turns.setdefault(match, []).append(turn)


def clear(folder: str | Path) -> None:
    """Removes the journals of a stage without open matches."""
    for path in Path(folder).glob("open-*.jsonl"):
        path.unlink(missing_ok=True)
