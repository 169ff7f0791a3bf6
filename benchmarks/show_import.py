"""The memory of an import that grows tenfold: a results folder of clembench into rows, and the rows read back.

    python benchmarks/show_import.py [--rows 1000 10000] [--no-record]

The folder is made on the spot: matches of one seat, ten turns of some 40 words each. Each size is imported in a process
of its own (`task=import`'s own code, then `data=conversations`' reader); measured is the peak of its resident set.
Fails where the last peak is more than 1.2 times the first, or rows were lost. Writes docs/results/import.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from play_memory import BAR, peak
from results import record


def made(folder: Path, rows: int) -> None:
    """A results folder with `rows` matches, each of which gives one row."""
    players = {"GM": {}, "Player 1": {"model_name": "some-model", "game_role": "Speller"}}
    for number in range(rows):
        place = folder / f"some-model/spelling/{number // 1000}_experiment/instance_{number:05d}"
        place.mkdir(parents=True)
        meta = {"game_name": "spelling", "experiment_name": f"{number // 1000}_experiment", "game_id": number}
        turns = [
            [
                {"from": "GM", "to": "Player 1", "action": {"type": "send message", "content": f"spell {turn} " * 20}},
                {"from": "Player 1", "to": "GM", "action": {"type": "get message", "content": f"word {turn} " * 20}},
            ]
            for turn in range(10)
        ]
        (place / "interactions.json").write_text(json.dumps({"meta": meta, "players": players, "turns": turns}))
        (place / "scores.json").write_text(json.dumps({"episode scores": {"Success": number % 2, "Aborted": 0}}))


def imported(folder: Path) -> dict[str, Any]:
    """Imports a folder and reads the rows back; what that took."""
    from parley.cli.tasks.importing import _rows
    from parley.data.formats import conversations

    before, clock = peak(), time.process_time()
    rows = _rows(folder / "results", file := folder / "rows.jsonl")
    replies = sum(len(log.messages) // 2 for _, log in conversations.read(file))
    spent = round(time.process_time() - clock, 1)
    return {
        "rows": rows, "replies": replies, "before_mib": before, "peak_mib": peak(), "cpu_seconds": spent,
        "rows_mib": round(file.stat().st_size / 2**20, 1),
    }  # fmt: skip


def measured(rows: int) -> dict[str, Any]:
    """`imported` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder) / "results", rows)
        command = [sys.executable, __file__, "--child", folder]
        return json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--child", type=Path, help="the folder of a process that measures")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(imported(asked.child)))
        return
    found = [measured(rows) for rows in asked.rows]
    whole = all(
        each["rows"] == rows and each["replies"] == 10 * rows for each, rows in zip(found, asked.rows, strict=True)
    )
    figures = {"ratio": round(found[-1]["peak_mib"] / found[0]["peak_mib"], 3), "bar": BAR, "imports": found}
    if not asked.no_record:
        record("import", figures)
    print(json.dumps(figures))
    sys.exit(not whole or figures["ratio"] > BAR)


if __name__ == "__main__":
    main()
