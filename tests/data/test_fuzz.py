"""No data file, however broken, ends in anything but what it holds, or one error that names it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import pytest
from parley.data.episode import streams
from parley.data.formats import conversations, lewis, lm_selfplay, messages, spag, spin_rows
from parley.data.imported import episode
from parley.data.sources.conversations import Conversations, merged
from parley.data.store import EpisodeStore
from parley.games.deal import contexts
from parley.games.prompts import Prompts
from parley.games.taboo import words
from parley.system.files import InputError, read_jsonl

from costs import Costs

TRIES = int(os.environ.get("PARLEY_STRESS", 40))  # files for each reader
SEED = int(os.environ.get("PARLEY_SEED", 0))


def used(path: Path) -> list[Any]:
    """Conversations as a run uses them: imitated, merged, as matches."""
    source = Conversations(str(path))
    rows = list(conversations.read(path))
    return [
        *source.demonstrations(None, "train"),  # type: ignore[arg-type]
        *(merged(log) for _, log in rows),
        *(episode([row], "learner") for row in rows),
    ]


def streamed(folder: Path) -> list[Any]:
    """Stored matches and the token streams of their seats."""
    episodes = list(EpisodeStore(folder, shard=None).read())
    seats = [(episode, turn.seat) for episode in episodes for turn in episode.turns]
    return [*episodes, *((episode.refused(seat), streams(episode, seat)) for episode, seat in seats)]


READ: dict[str, Callable[[Path], Any]] = {
    "messages": lambda path: [log.demonstration() for log in messages.read(path)],
    "conversations": used,
    "spin": lambda path: list(spin_rows.read(path)),
    "prompts": lambda path: list(read_jsonl(path, Prompts(str(path))._read)),
    "store": streamed,
    "lewis": lambda path: list(lewis.read(path)),
    "words": words.read,
    "contexts": contexts.read,
    "spag_episodes": lambda path: [each.ending() for each in spag.read_episodes(path)],
    "spag_rows": lambda path: [row.demonstration("x") for row in spag.read_rows(path)],
    "lm_selfplay": lambda path: [record.log(0).demonstration() for record in lm_selfplay.read(path)],
}


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_B12_a_sound_file_is_read_with_and_without_a_mark(reader, tmp_path):
    data = fuzz.sound(reader)
    first = READ[reader](fuzz.write(reader, data, tmp_path / "x"))
    assert first
    if reader != "store":  # our own file, which nobody edits
        assert len(READ[reader](fuzz.write(reader, b"\xef\xbb\xbf" + data, tmp_path / "x"))) == len(first)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("reader", fuzz.READERS)
def test_B12_a_broken_file_is_read_or_named(reader, tmp_path):
    draw = random.Random(f"{SEED} {reader}")
    named, good = 0, fuzz.write(reader, fuzz.sound(reader), tmp_path / "good")
    costs = Costs(lambda: READ[reader](good))
    for number in range(TRIES):
        data = fuzz.broken(reader, draw)
        path = fuzz.write(reader, data, tmp_path / "x")
        try:
            with costs.bounded((reader, number)):
                texts = repr(READ[reader](path))
            texts.encode()
        except InputError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error) and len(str(error)) < 600, (number, error)
            named += 1
        except Exception as error:
            raise AssertionError(f"{reader}, try {number} of seed {SEED}: {data[:300]!r}") from error
    assert named > TRIES / 5
