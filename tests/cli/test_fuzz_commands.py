"""Command lines drawn by a seed: each is accepted or told in one message, and none that is known to be wrong is
accepted. What is wrong is known from the values of conf/ alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from parley.cli.main import check
from parley.run.config import ConfigError

from commands import parley
from costs import Costs

CONF = Path(__file__).parents[2] / "conf"
TRIES = int(os.environ.get("PARLEY_STRESS", 8))
SEED = int(os.environ.get("PARLEY_SEED", 0))
FREE = (
    "1",
    "0",
    "-1",
    "2",
    "true",
    "null",
    "[]",
    "{}",
    "x",
    "1e3",
    "a.b",
    "''",
    "'1'",
    "[1,2]",
    "{a: 1}",
    "0.5",
    "${seed}",
    "a b",
)
NO_NUMBER = ("x", "[1]", "{a: 1}", "true", "nan", "inf", "${name}", "12z")
TORN = (
    "[1",
    "{a",
    "a=b",
    "'a",
    "${",
    "${nowhere}",
    "a,b",
    "(",
    "\\",
    "]",
    "???",
    "${oc.env:NOPE}",
    "é\u202e",
    "9" * 400,
)
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "local"))


def numbers(node: Any, key: str = "") -> Iterator[str]:
    """The keys of conf/config.yaml whose values are numbers, as play.group."""
    for name, value in node.items() if isinstance(node, dict) else ():
        path = f"{key}.{name}" if key else str(name)
        if type(value) in (int, float):
            yield path
        elif path not in ("hydra", "defaults"):
            yield from numbers(value, path)


ROOT = yaml.safe_load((CONF / "config.yaml").read_text())
NUMBERS = sorted(numbers(ROOT))
KEYS = sorted({*NUMBERS, *(str(key) for key in ROOT if key not in ("defaults", "hydra"))})


def words(draw: random.Random) -> tuple[list[str], bool]:
    """A command line, and whether it is known to be wrong."""
    found, wrong = [], False
    for key in draw.sample([*KEYS, *GROUPS], draw.randint(1, 3)):
        kind = draw.random()
        if kind < 0.4 and key in NUMBERS:
            found.append(f"{key}={draw.choice(NO_NUMBER)}")
            wrong = True
        elif kind < 0.6:
            found.append(f"{draw.choice(('', '', '+', '~', '++'))}{key}={draw.choice((*FREE, *TORN))}")
        elif kind < 0.75:
            at = draw.randrange(len(key))
            found.append(f"{key[:at]}{draw.choice('xyz.')}{key[at:]}={draw.choice(FREE)}")
        else:
            found.append(f"{key}={draw.choice(FREE)}")
    return found, wrong


def test_a_command_line_is_accepted_or_told_in_one_message(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    draw, told, costs = random.Random(f"{SEED} commands"), 0, Costs(lambda: check([]))
    for number in range(TRIES):
        line, wrong = words(draw)
        try:
            with costs.bounded(line):
                check(line)
        except ConfigError as error:
            text = str(error)
            assert "nothing was run" in text and "Traceback" not in text and len(text) < 20_000, (number, line, text)
            assert all(len(each) < 2000 for each in text.splitlines()), (number, line, text)
            told += 1
        except Exception as error:
            raise AssertionError(f"line {number} of seed {SEED}: {line}") from error
        else:
            assert not wrong, (number, line)
    assert told > TRIES / 3
    assert not list(tmp_path.iterdir())


def test_a_command_says_as_much_in_a_process_of_its_own(tmp_path: Path) -> None:
    """One line in twenty: refused with one message and exit code 2, or composed and printed; nothing is written."""
    draw = random.Random(f"{SEED} processes")
    for number in range(-(-TRIES // 20)):
        line, _ = words(draw)
        try:
            check(line)
        except ConfigError as error:
            ended = parley(*line, folder=tmp_path)
            assert (ended.returncode, ended.stderr.strip()) == (2, f"parley: {error}".strip()), (
                number,
                line,
                ended.stderr,
            )
        else:
            ended = parley(*line, "--cfg", "job", folder=tmp_path)
            assert ended.returncode == 0 and "seed:" in ended.stdout, (number, line, ended.stderr)
        assert "Traceback" not in ended.stderr, (number, line)
    assert not list(tmp_path.iterdir())
