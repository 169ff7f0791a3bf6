"""Crash-safe files: written whole or not at all, appended line by line, digested, locked."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, overload

T = TypeVar("T")


class InputError(ValueError):
    """Invalid input: a file, folder or value from a user or a stored run. The text says what to do."""


class Locked(RuntimeError):
    """Another process uses this folder."""


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """Opens a text file that replaces `path` when the block ends without an error; otherwise `path` is unchanged."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(
        f".{path.name}.{os.getpid()}.tmp"
    )  # the same folder: a rename is atomic within one file system only
    try:
        with open(draft, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: str | Path, data: Any) -> None:
    """Writes `data` as indented JSON to `path`, whole or not at all. ValueError for NaN and infinity."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Appends lines (given without newlines) to `path` and makes them durable. Does nothing without lines."""
    if not (text := "".join(f"{line}\n" for line in lines)):
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_text(path: str | Path) -> str:
    """The text of a regular file in UTF-8, without a byte-order mark. InputError if it is not such a file,
    FileNotFoundError if it is missing."""
    return _text(_regular(path).read_bytes(), str(path), first=True)


def read_json(path: str | Path) -> Any:
    """The JSON value in a file. InputError names the file and the reason."""
    text = read_text(path)
    try:
        return _sound(json.loads(text), text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({reason(error)})") from None


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a regular file in UTF-8, one line in memory at a time; InputError as
    `read_text`."""
    with open(_regular(path), "rb") as file:
        for number, line in enumerate(file, 1):
            yield number, _text(line, f"{path}, line {number}", first=number == 1)


@overload
def read_jsonl(path: str | Path) -> Iterator[Any]: ...
@overload
def read_jsonl(path: str | Path, read: Callable[[Any], T]) -> Iterator[T]: ...
def read_jsonl(path: str | Path, read: Callable[[Any], Any] = lambda data: data) -> Iterator[Any]:
    """The values of a file with one line of JSON each, passed through `read`. InputError names file and line."""
    for number, line in read_lines(path):
        yield parse_line(line, path, number, read)


def parse_line(line: str | bytes, path: str | Path, number: int, read: Callable[[Any], T]) -> T:
    """The value in one line of JSON. InputError names file and line if it is not JSON, or `read` refuses it."""
    try:
        data = json.loads(line) if isinstance(line, bytes) else _sound(json.loads(line), line)
        return read(data)
    except REFUSED as error:
        raise InputError(f"{path}, line {number}: {reason(error)}") from error


REFUSED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors that reading an untrusted value may raise."""

LONGEST = 400  # most characters of a reason


def reason(error: Exception) -> str:
    """Why a value was refused, as text, with long values cut; `error` is one of REFUSED."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = f"lacks the key {error}" if isinstance(error, KeyError) else str(error)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _regular(path: str | Path) -> Path:
    """Returns `path` if it is a regular file (a device or a pipe might never end). InputError otherwise."""
    path = Path(path)
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    raise InputError(f"{path}: not a regular file (a folder, a device or a pipe)")


def _text(data: bytes, where: str, first: bool) -> str:
    if first and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{where}: UTF-16, expected UTF-8: save the file as UTF-8")
    if b"\0" in data:
        raise InputError(f"{where}: holds a NUL byte, so it is not UTF-8 text")
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise InputError(f"{where}: not UTF-8 ({bad}): save the file as UTF-8") from None


def _sound(value: T, text: str) -> T:
    """Returns `value` unless it contains half a surrogate pair, which no tokenizer accepts."""
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    return value


def digest(source: Any) -> str:
    """A digest of 32 hex digits of a value (as JSON, independent of the order of keys), or of the bytes of a file or
    the files of a folder (given as a `Path`)."""
    hashed = hashlib.blake2b(digest_size=16)
    if not isinstance(source, Path):
        hashed.update(json.dumps(source, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    elif source.is_dir():
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            hashed.update(f"{file.relative_to(source).as_posix()}\0{digest(file)}\n".encode())
    else:
        with open(source, "rb") as stream:
            while block := stream.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def held(folder: str | Path) -> bool:
    """Whether a process holds the lock of `folder`."""
    try:
        handle = os.open(Path(folder) / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Locks `folder` for this process. `Locked` names the process that holds it; a killed process holds no lock."""
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise Locked(f"{folder} is in use by {owner}: wait for it to end or choose another run directory") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # also releases the lock
