"""Reads conversations in common layouts, one row for each chat or preference pair.

    messages    {"messages": [{"role", "content"}, …], "meta": {…}}; parley's exports, playpen's rows and OpenAI's
                fine-tuning files (`weight` 0: not imitated) have this layout
    trl         {"messages"}, {"prompt", "completion"}, or a pair {"prompt", "chosen", "rejected"}; each a text or
                messages, and the prompt of a pair may be repeated in both sides, or stand in the row as in another
                layout (conversations, or instruction and input)
    sharegpt    {"conversations": [{"from": "human" | "gpt" | "system", "value"[, "weight"]}, …]}
    spin        a pair {"real": […], "generated": […]}
    alpaca      {"instruction", "input", "output"}, and earlier turns as {"system", "history": [[asked, answered], …]}
    lm_selfplay a folder of lm-selfplay's logs, two chats for each game

A file is JSON lines, one JSON list (read whole), or parquet; a folder means all such files in it, by name. A column
without a value counts as absent. Replies in a prompt are context and not imitated. Further keys of a row become its
meta. Files are untrusted: errors name the file and the row's number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ...games.base import Json, Message
from ...games.chats import read_messages
from ...system.files import REFUSED, InputError, parse_line, read_json, read_lines, reason
from . import alpaca, lm_selfplay
from .messages import Log, from_json, meta_of, weightless
from .spin_rows import Row
from .writers import WRITERS

Format: TypeAlias = Literal[
    "auto", "messages", "parley", "playpen", "openai", "trl", "sharegpt", "spin", "alpaca", "lm_selfplay"
]
SUFFIXES = (".json", ".jsonl", ".parquet")
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "system": "system",
}  # fmt: skip


def read(path: str | Path, format: Format = "auto") -> Iterator[tuple[str, Log]]:
    """(id, log) of each row, in order; an id is the file's name (with its ending, if two files differ in nothing else)
    and the row's number. InputError names file and row.

    Rows of JSON lines and parquet are read one at a time.
    """
    path = Path(path)
    if format == "lm_selfplay" or (format == "auto" and (path / "results").is_dir()):
        for record in lm_selfplay.read(path):
            yield from ((f"{record.name}/p{player}", record.log(player)) for player in (0, 1))
        return
    found = files(path)
    stems = Counter(file.stem for file in found)
    for file in found:
        name = file.stem if stems[file.stem] == 1 else file.name
        for number, log in _rows(file, partial(_row, ROWS[format])):
            yield f"{name}/{number:06d}", log


def files(path: Path) -> list[Path]:
    """The files of rows at `path`: itself, or those in the folder, by name. InputError if there is none, or if the
    folder is an export with the same chats in several layouts."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and not each.name.startswith("."))
    if not found:
        raise InputError(f"{path}: no file of rows in this folder, expected names that end in {', '.join(SUFFIXES)}")
    exported = [each.name for each in found if each.stem in WRITERS]
    if len(exported) > 1:
        raise InputError(f"{path}: an export, the same chats in several layouts: name one of {', '.join(exported)}")
    return found


def _rows(path: Path, parse: Callable[[Any], Log]) -> Iterator[tuple[int, Log]]:
    if path.suffix == ".parquet":
        yield from _counted(path, _parquet(path), parse)
        return
    begin = next((line.strip() for _, line in read_lines(path) if line.strip()), "")
    if not begin:
        raise InputError(f"{path}: empty, expected one row in each line")
    if begin.startswith("["):
        yield from _counted(path, read_json(path), parse)
        return
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_line(line, path, number, parse)


def _counted(path: Path, rows: Iterable[Any], parse: Callable[[Any], Log]) -> Iterator[tuple[int, Log]]:
    for number, row in enumerate(rows, 1):
        try:
            yield number, parse(row)
        except REFUSED as error:
            raise InputError(f"{path}, row {number}: {reason(error)}") from None


def _parquet(path: Path) -> Iterator[Json]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            yield from (json.loads(json.dumps(row, default=str)) for row in batch.to_pylist())
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not parquet ({error})") from None


# --- one row ---


def _row(parse: Callable[[Any], Log], row: Any) -> Log:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    return parse({key: value for key, value in row.items() if value is not None or key not in CONTENT})


def _any(row: Mapping[str, Any]) -> Log:
    """Parses a row of any layout, recognised by its keys."""
    if "chosen" in row and "rejected" in row:
        return _trl(row)
    for key, parse in KEYS.items():
        if key in row:
            return parse(row)
    raise ValueError(f"unknown layout: none of the keys {', '.join(KEYS)}, but {', '.join(row) or 'none'}")


def _trl(row: Mapping[str, Any]) -> Log:
    if "messages" in row and not ("chosen" in row and "rejected" in row):
        return from_json(row)
    if "completion" not in row:
        return _preference(row)
    prompt = _side(row["prompt"], "user")
    said = (*prompt, *_side(row["completion"], "assistant"))
    return Log(said, meta_of(row, "prompt", "completion"), _replies(prompt))


def _preference(row: Mapping[str, Any]) -> Log:
    prompt, meta = _prompt(row), meta_of(row, *CONTENT)
    chosen, rejected = (_side(row[key], "assistant") for key in ("chosen", "rejected"))
    if not prompt and isinstance(row["chosen"], str):
        raise ValueError("chosen and rejected are texts, and the row has no prompt")
    if prompt and chosen[: len(prompt)] != prompt:
        chosen, rejected = (*prompt, *chosen), (*prompt, *rejected)
    return _pair(chosen, rejected, meta)


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt of a pair, wherever it stands, after the row's system message; () if both sides begin with it."""
    asked, system = _asked(row), row.get("system")
    first = isinstance(system, str) and system and asked and asked[0].role != "system"
    return (Message("system", str(system)), *asked) if first else asked


def _asked(row: Mapping[str, Any]) -> tuple[Message, ...]:
    if "prompt" in row:
        return _side(row["prompt"], "user")
    if "conversations" in row:
        return _sharegpt(row).messages
    if "instruction" in row or "input" in row:
        return alpaca.asked(row)
    said = read_messages(row["messages"]) if "messages" in row else ()
    return said if said and said[-1].role == "user" else ()  # else they are the chosen side once more


def _side(data: Json, role: Literal["user", "assistant"]) -> tuple[Message, ...]:
    """A part of a row: a text by `role`, messages, or one message of ShareGPT."""
    if isinstance(data, str):
        return (Message(role, data),)
    return read_messages(_turns([data]) if isinstance(data, dict) else data)


def _pair(real: tuple[Message, ...], generated: tuple[Message, ...], meta: Mapping[str, Json]) -> Log:
    """A pair; if both sides continue after the first message that differs, the rest is left out."""
    differ = next((at for at, (one, other) in enumerate(zip(real, generated, strict=False)) if one != other), -1)
    row = Row(real[: differ + 1], generated[: differ + 1]) if differ >= 0 else Row(real, generated)
    return Log(row.real, meta, _replies(row.real[:-1]), row.generated)


def _replies(prompt: Sequence[Message]) -> tuple[int, ...]:
    """The positions of the replies in a prompt, which are context."""
    return tuple(at for at, message in enumerate(prompt) if message.role == "assistant")


def _sharegpt(row: Mapping[str, Any]) -> Log:
    said = _turns(row["conversations"])
    if isinstance(row.get("system"), str) and row["system"]:
        said = [{"role": "system", "content": row["system"]}, *said]
    return Log(read_messages(said), meta_of(row, "conversations", "system"), tuple(weightless(said)))


def _turns(data: Json) -> list[dict[str, Any]]:
    """ShareGPT's turns in the layout of messages."""
    if not isinstance(data, list) or not all(isinstance(turn, dict) for turn in data):
        raise ValueError('"conversations" must be a list of {"from", "value"} objects')
    turns = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content")), turn) for turn in data]
    return [
        {"role": SPEAKERS.get(str(speaker), speaker), "content": text, "weight": turn.get("weight")}
        for speaker, text, turn in turns
    ]


def _spin(row: Mapping[str, Any]) -> Log:
    pair = Row(read_messages(row["real"]), read_messages(row["generated"]))
    return Log(pair.real, meta_of(row, "real", "generated"), _replies(pair.real[:-1]), pair.generated)


CONTENT = (
    "messages", "conversations", "real", "generated", "prompt", "completion", "chosen", "rejected", "instruction",
    "input", "output", "system", "history",
)  # fmt: skip
KEYS: Mapping[str, Callable[[Any], Log]] = {
    "messages": from_json, "conversations": _sharegpt, "real": _spin, "chosen": _trl, "completion": _trl,
    "output": alpaca.log,
}  # fmt: skip
ROWS: Mapping[str, Callable[[Any], Log]] = {
    "auto": _any, "messages": from_json, "parley": from_json, "playpen": from_json, "openai": from_json, "trl": _trl,
    "sharegpt": _sharegpt, "spin": _spin, "alpaca": alpaca.log,
}  # fmt: skip
