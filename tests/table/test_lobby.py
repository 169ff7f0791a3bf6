"""What the lobby keeps of the matches: no more after a thousand than after a hundred, and all that a restart needs."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from parley.games.base import Scenario
from parley.games.deal import Deal
from parley.system.files import read_jsonl
from parley.table.lobby import FILE, Booked, Bookings, Lobby

PEOPLE = [f"person:{name}" for name in "abcd"]


def opened(folder: Path, stored: set[str]) -> Bookings:
    store: Any = SimpleNamespace(ids=lambda: stored)
    return Bookings(folder, store)


def known(bookings: Bookings) -> dict[str, Any]:
    return {
        "open": set(bookings.open), "again": set(bookings.again), "drawn": bookings.drawn,
        "matches": +bookings.matches, "seated": bookings.counts,
        "last": {name: (each.match, each.over == "played") for name, each in bookings.last.items()},
    }  # fmt: skip


def reference(folder: Path, stored: set[str]) -> dict[str, Any]:
    """The same, of all lines at once."""
    rows: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(folder / FILE):
        rows[row["match"]] = {**rows.get(row["match"], {"over": ""}), **row}
    for match in stored:
        rows[match]["over"] = "played"
    gone = [row for row in rows.values() if row["over"] not in ("", "played")]
    newest = {row["scenario"]["id"]: row for row in rows.values()}
    again = {key for key, row in newest.items() if row in gone}
    last = {name: row for row in rows.values() for name in row["players"].values()}
    return {
        "open": {row["match"] for row in rows.values() if not row["over"]}, "again": again,
        "drawn": len(rows) - len(gone) + len(again),
        "matches": Counter(name for row in rows.values() if row not in gone for name in row["players"].values()),
        "seated": Counter(row["scenario"]["id"] for row in rows.values()),
        "last": {name: (row["match"], row["over"] == "played") for name, row in last.items()},
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_what_is_known_is_what_the_lines_say_before_and_after_a_restart(tmp_path: Path, seed: int) -> None:
    chance, stored = Random(seed), set[str]()
    bookings = opened(tmp_path, stored)
    for _ in range(30):
        if chance.random() < 0.6 or not bookings.open:
            scenario = Scenario(chance.choice("xyz"), {}, "c")
            match = f"table/play/{scenario.id}/{bookings.counts[scenario.id]}"
            players = dict(zip(("first", "second"), chance.sample(PEOPLE, 2), strict=True))
            bookings.add(Booked(match, scenario, 0, players))
        else:
            match, over = chance.choice(sorted(bookings.open)), chance.choice(["played", "the person left"])
            stored |= {match} if over == "played" else set()
            assert bookings.end(match, over).over == over
    assert known(bookings) == reference(tmp_path, stored) == known(opened(tmp_path, stored))


def test_a_finished_match_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley.table.lobby.append_lines", lambda path, lines: None)
    game = Deal()
    lobby = Lobby(
        game, opened(tmp_path, set()), "table/play", game.scenarios("test")[:20], None, 0.0, None, {}, 0, lambda _: None
    )

    def play(matches: int) -> int:
        for number in range(matches):
            for name in PEOPLE[:2]:
                lobby.come(name, alone=False)
            seating = next(iter(lobby))
            assert seating is not None
            lobby.ended(seating.match, "the person left" if number % 7 == 0 else "played")
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with lobby.page(PEOPLE[0]), lobby.page(PEOPLE[1]):
        play(100)
        tracemalloc.start()
        before = play(100)
        assert play(1000) - before < 20_000  # bytes; each booking would be some 2,000
        tracemalloc.stop()
