"""Files for every reader, sound ones and broken ones, drawn by a seed. No code of the readers is called here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

Q, A, B = ({"role": role, "content": text} for role, text in (("user", "q é"), ("assistant", "a"), ("assistant", "b")))
ITEMS = {"book": 1, "hat": 2, "ball": 1}
EPISODE = {
    "schema": 1, "id": "m/1", "game": "deal", "game_version": 1, "scenario": {"id": "s", "data": {}, "cluster": ""},
    "seed": 3, "players": {"a": "learner"}, "policies": {"a": "v"},
    "turns": [{
        "request": "a.1", "seat": "a", "kind": "act", "text": "hi", "finish": "stop",
        "call": {"prompt_ids": [1, 2], "sampled_ids": [3], "logprobs": [-0.5], "policy": "v", "parent": None,
                 "shared": 0, "fork": None, "sampling": {}},
    }],
    "result": {"returns": {"a": 1.0}, "outcome": "x", "outcome_by_seat": {}, "blame": None, "metrics": {}, "marks": {}},
}  # fmt: skip
LEWIS = (
    "<input> 1 5 2 1 3 1 </input> <dialogue> YOU: hats ? <eos> THEM: ok <eos> YOU: <selection> </dialogue> "
    "<output> item0=0 item1=2 item2=3 item0=1 item1=0 item2=0 </output> <partner_input> 1 10 2 0 3 0 </partner_input>"
)
SPAG = {
    "history": [{"role": "attacker", "content": "x"}, {"role": "defender", "content": "y"}],
    "target_word": "apple",
    "max_turns": 2,
}
LINES: dict[str, list[Any]] = {  # reader -> sound rows, one in each line
    "messages": [{"messages": [Q, A], "meta": {"payoff": 1.5, "rejected": [1], "role": "x", "n": None}}],
    "conversations": [
        {"messages": [{**Q, "content": [{"type": "text", "text": "q"}]}, {**A, "weight": 0}]},
        {"prompt": "q", "chosen": [A], "rejected": "b"},
        {"prompt": [Q], "completion": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
    ],
    "spin": [{"real": [Q, A], "generated": [Q, B]}],
    "prompts": [{"messages": [Q, A]}],
    "store": [EPISODE],
    "lewis": [LEWIS],
    "words": ["apple", "ice cream"],
    "contexts": ["1 5 2 1 3 1", "1 10 2 0 3 0"],
}
LISTS: dict[str, list[Any]] = {  # reader -> sound entries of one JSON list
    "spag_episodes": [SPAG],
    "spag_rows": [
        {"query": "q", "target": "t", "reward": 0.5, "weight": 2, "role": "attacker", "type": "play"},
        {"instruction": "i", "input": "", "output": "o"},
        {"text": ["a<sep>b", "c<sep>d"], "scores": [1, 2]},
    ],
    "lm_selfplay": [{
        "counts": ITEMS, "p0_values": ITEMS, "p1_values": ITEMS, "p0_allocation": ITEMS, "p1_allocation": None,
        "p0_score": 1, "p1_score": 2, "message_count": 3, "token_count": 4, "is_valid_deal": True,
    }],
}  # fmt: skip
READERS = (*LINES, *LISTS)
VALUES: list[Any] = [
    None, True, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", " ", "text", "\ud800", "\x00", [], [1], [[]], {},
    {"a": 1}, {"role": "user"}, ["x"] * 3,
]  # fmt: skip


def sound(reader: str) -> bytes:
    """The bytes of a file that the reader takes."""
    if reader in LISTS:
        return _json(LISTS[reader][0] if reader == "lm_selfplay" else LISTS[reader])
    rows = LINES[reader]
    return b"".join((row.encode() if isinstance(row, str) else _json(row)) + b"\n" for row in rows)


def broken(reader: str, draw: random.Random) -> bytes:
    """The bytes of a file of which some part is not as it should be."""
    return draw.choice((_bytes, _encoded, _deep, _values, _values, _values))(reader, draw)


def _bytes(reader: str, draw: random.Random) -> bytes:
    """Flipped, cut, doubled or foreign bytes."""
    data = bytearray(sound(reader))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data))
        change: Callable[[], Any] = draw.choice([
            lambda at=at: data.__setitem__(at, draw.randrange(256)),
            lambda at=at: data.__delitem__(slice(at, at + draw.randint(1, 9))),
            lambda at=at: data.__setitem__(slice(at, at), draw.randbytes(3)),
            lambda at=at: data.__setitem__(slice(at, at), data[: draw.randint(1, 40)]),
        ])  # fmt: skip
        change()
        if not data:
            break
    return bytes(data)


def _encoded(reader: str, draw: random.Random) -> bytes:
    text = sound(reader).decode()
    return draw.choice([
        text.encode("utf-16"), text.encode("utf-16-le"), text.encode("utf-32"), text.encode("latin-1", "replace"), b"",
        b"\n", b"\0" * 9, text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode(), text.encode()[:-5],
    ])  # fmt: skip


def _deep(reader: str, draw: random.Random) -> bytes:
    depth = draw.choice((500, 100_000))
    return draw.choice([b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth, sound(reader) + b"[" * depth])


def _values(reader: str, draw: random.Random) -> bytes:
    """A value somewhere in the rows is of another type, is gone, or stands under another name."""
    every = LISTS.get(reader) or LINES[reader]
    if isinstance(every[0], str):
        return _bytes(reader, draw)
    rows = json.loads(json.dumps(every))
    for _ in range(draw.randint(1, 2)):
        holder, key = draw.choice(list(_places(rows)))
        if isinstance(holder, dict) and draw.random() < 0.2:
            value = holder.pop(key)
            if draw.random() < 0.5:
                holder[draw.choice(("messages", "text", "role", "x"))] = value
        else:
            holder[key] = deepcopy(draw.choice(VALUES))
    if reader in LISTS:
        return _json(rows[0] if reader == "lm_selfplay" else rows)
    return b"".join(_json(row) + b"\n" for row in rows)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def write(reader: str, data: bytes, folder: Path) -> Path:
    """Lays a file where its reader looks for it; returns what the reader is given."""
    if reader == "lm_selfplay":
        for name in ("results/000", "json_logs/000_p0", "json_logs/000_p1"):
            path = folder / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if name.startswith("results") else _json([A]))
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("0.jsonl" if reader == "store" else "rows.jsonl")
    path.write_bytes(data)
    return folder if reader == "store" else path
