"""Reads how much of a run's history Weights & Biases wrote offline.

Its process holds rows back in memory for seconds, so after a kill only its file says which of them are there. The file
is a header of 7 bytes, then LevelDB's log format: blocks of 32 KiB, in them parts of (checksum, length, kind, data).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEAD = 32768, 7
WHOLE, LAST = 1, 4  # kinds of parts that end a record


def history(path: Path) -> int:
    """The step after the last history row in a `.wandb` file, 0 without one. A torn end counts for nothing."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2 as proto

    steps = 0
    for data in _records(path.read_bytes()):
        record = proto.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(data)
        except DecodeError:
            break
        if record.WhichOneof("record_type") == "history":
            steps = max(steps, int(record.history.step.num) + 1)
    return steps


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        if at % BLOCK > BLOCK - HEAD:  # too little is left of the block for a part
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += HEAD + length
        if at > len(data):
            return
        parts += data[at - length : at]
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
