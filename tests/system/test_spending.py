"""The ledger on a disk that takes no more, and in the hands of others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from parley.system import spending
from parley.system.files import InputError
from parley.system.spending import Ledger


class Disk:
    """Writes `room` bytes, a few at a time, and then is full."""

    def __init__(self, room: int) -> None:
        self.room, self.write = room, os.write

    def __call__(self, handle: int, data: bytes) -> int:
        if not self.room:
            raise OSError(28, os.strerror(28))
        done = self.write(handle, data[: min(7, self.room)])
        self.room -= done
        return done


@pytest.mark.parametrize("room", range(0, 200, 13))
def test_B07_a_full_disk_forgets_no_request_that_was_sent(room: int, tmp_path: Path, monkeypatch: Any) -> None:
    path, sent = tmp_path / "x.jsonl", 0
    ledger = Ledger(path, max_requests=10)
    monkeypatch.setattr(spending.os, "write", Disk(room))
    with pytest.raises(InputError, match=r"cannot be booked \(No space left on device\): make room"):
        for number in range(10):
            assert ledger.book(f"r{number}", 1.0)
            sent += 1
    monkeypatch.undo()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["for"] for row in rows] == [f"r{number}" for number in range(sent)]
    assert Ledger(path).requests == ledger.requests == sent
    assert ledger.book("again", 1.0) and Ledger(path).requests == sent + 1


def test_B07_a_settlement_that_cannot_be_written_counts_in_full(tmp_path: Path, monkeypatch: Any) -> None:
    ledger = Ledger(tmp_path / "x.jsonl", max_cost=10.0)
    ticket = ledger.book("r", 4.0)
    assert ticket
    monkeypatch.setattr(spending.os, "write", Disk(9))
    with pytest.raises(InputError, match="cannot be booked"):
        ledger.settle(ticket, 1.0)
    monkeypatch.undo()
    other = Ledger(tmp_path / "x.jsonl", max_cost=10.0)
    assert (other.held, other.spent) == (4.0, 0.0)


FOREIGN = [
    "{}", "[]", "3", "not json", '{"book": "a"}', '{"book": "a", "most": NaN}', '{"book": ["a"], "most": 1}',
    '{"settle": "a", "cost": -1}', '{"settle": "a", "cost": Infinity}', '{"settle": "a", "cost": "1"}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: line[:30])
def test_B05_a_foreign_line_of_a_ledger_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"book": "a", "for": "r", "most": 1.0}\n' + line + "\n")
    with pytest.raises(InputError, match=r"x\.jsonl, line 2: "):
        Ledger(path)


def test_B05_a_ledger_that_was_cut_meanwhile_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "x.jsonl")
    ledger.book("r", 1.0)
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(InputError, match="was cut while this run used it"):
        ledger.book("s", 1.0)
