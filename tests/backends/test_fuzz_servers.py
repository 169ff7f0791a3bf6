"""Servers that answer anything, drawn by a seed: every prompt is answered once, the ceiling holds, and what is recorded
can be so. The server keeps count by itself."""

from __future__ import annotations

import json
import os
import random
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from parley.play.player import Completion
from parley.system.spending import SpendingLimit
from test_openai import key, prompt, talking  # noqa: F401  # `key` is a fixture

from openai_server import REAL, Server, completion

pytest.importorskip("openai")
pytestmark = pytest.mark.skipif(bool(REAL), reason="needs the fake server's own answers")
TRIES = int(os.environ.get("PARLEY_STRESS", 4))
SEED = int(os.environ.get("PARLEY_SEED", 0))
PROMPTS, CEILING = 12, 2000.0
JUNK = (
    None,
    "",
    "x",
    0,
    -1,
    7,
    10**30,
    1e300,
    float("nan"),
    float("-inf"),
    True,
    [],
    {},
    [[]],
    ["a"],
    {"a": None},
    "\ud800",
    0.5,
)


def script(draw: random.Random) -> Any:
    """What the server says to a request: a sound answer, of which this script changes some places."""

    def talk(body: dict[str, Any]) -> dict[str, Any]:
        own = random.Random(f"{draw.random()}")
        logprobs = {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}
        sound = completion(body, "so it", token_ids=[1, 2], logprobs=logprobs, prompt_token_ids=[3, 4])
        for _ in range(own.choice((0, 1, 1, 2, 5))):
            _change(sound, own)
        return sound

    return talk


def _change(answer: dict[str, Any], own: random.Random) -> None:
    value: Any = answer
    while isinstance(value, (dict, list)) and value:
        at: Any = own.choice([*value] if isinstance(value, dict) else range(len(value)))
        if own.random() < 0.35 or not (isinstance(value[at], (dict, list)) and value[at]):
            value[at] = deepcopy(own.choice(JUNK))
            return
        value = value[at]


def sound(done: Completion) -> bool:
    """Whether a completion can be so, by its record alone."""
    ids, logprobs = done.token_ids, done.logprobs
    json.dumps([done.text, done.thought]).encode()
    if ids is None or logprobs is None:
        return isinstance(done.text, str)
    good = all(type(each) is int and 0 <= each < 2**31 for each in (*ids, *(done.prompt_ids or ())))
    return good and len(ids) == len(logprobs) and all(type(each) is float and -1e9 < each <= 0 for each in logprobs)


@pytest.mark.parametrize("number", range(TRIES))
def test_a_server_that_answers_anything(number: int, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} servers {number}")
    faults = [draw.choice(("", "", "500", "429", "drop")) for _ in range(draw.randint(0, 8))]
    prices = {"price_prompt": 1e6, "price_completion": 1e6, "max_cost": CEILING, "max_requests": 40}
    server = Server(script(draw), [each for each in faults if each])
    found: list[Completion] = []
    with talking(server, token_ids=True, retries=2, ledger=tmp_path / "l.jsonl", **prices) as (_, backend):
        backend.submit([prompt(each) for each in range(PROMPTS)])
        until = time.monotonic() + 300
        try:
            while len(found) < PROMPTS and time.monotonic() < until:
                found += backend.poll(0.05)
        except SpendingLimit:
            pass
        else:
            assert len(found) == PROMPTS, f"{len(found)} answers"
        assert len({done.id for done in found}) == len(found) and all(map(sound, found))
        assert len(server.asked) <= backend.ledger.requests <= 40
        assert 0 <= backend.ledger.spent <= CEILING
