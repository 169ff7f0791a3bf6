"""Snapshots (checkpoints) on disk: Hugging Face folders, written once, whose version is a digest of the contents."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Protocol

from ..system.files import InputError
from ..system.naming import hub_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "quantization.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "*.jinja", "additional_chat_templates/*.jinja",
)  # fmt: skip
ADAPTER, ADAPTED = "adapter_model.safetensors", "adapter_config.json"
BASE = "base_model_name_or_path"  # peft's key for an adapter's base


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy with an immutable version: the Hugging Face folder `path`, the LoRA adapter folder `path` on the folder
    `base`, or (without a path) the model that a server calls `served`."""

    version: str
    path: str
    base: str | None = None
    served: str | None = None


class Writable(Protocol):
    """A model that can write itself to a folder: a transformers model, an `Adapter`, `adapter.writable(model)`."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Writes safetensors and JSON into an existing folder."""


def digest(folder: str | Path) -> str:
    """Hex SHA-256 over the names and contents of a folder's weights, configs and tokenizer files.

    Other files (a training log, a README) do not change it. FileNotFoundError if the folder has none of them.
    """
    files = sorted({path for part in PARTS for path in Path(folder).glob(part)})
    if not files:
        raise FileNotFoundError(f"{folder} is no model folder: it holds no weights, config or tokenizer")
    whole = hashlib.sha256()
    for path in files:
        state, name = path.stat(), path.relative_to(folder).as_posix()
        whole.update(f"{name}\x1f{_file(str(path), state.st_size, state.st_mtime_ns, state.st_ino)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=4096)
def _file(path: str, size: int, changed: int, inode: int) -> str:
    """A file's SHA-256, cached until its size, time or inode changes (weights can be many gigabytes).

    The base's location in an adapter's config that parley wrote is left out: it serves peft only, and the version
    contains the base's digest.
    """
    if Path(path).name == ADAPTED and size < 1 << 20 and (data := _ours(path)) is not None:
        return hashlib.sha256(_dumped({**data, BASE: None}).encode()).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _ours(path: str | Path) -> dict[str, Any] | None:
    """The config of an adapter if `write_adapter_config` wrote it, else None."""
    text = Path(path).read_bytes()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and BASE in data and _dumped(data).encode() == text else None


def write_adapter_config(folder: str | Path, values: Mapping[str, Any]) -> None:
    """Writes an adapter's config for peft."""
    (Path(folder) / ADAPTED).write_text(_dumped(values), encoding="utf-8")


def _dumped(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"


def _named(folder: Path, base: str) -> None:
    """Writes the base into an adapter's config, so that peft can open the adapter by itself: ORG/NAME, or the current
    folder (parley ignores it for its own snapshots)."""
    if (data := _ours(folder / ADAPTED)) is not None:
        write_adapter_config(folder, {**data, BASE: hub_id(base) or str(Path(base).absolute())})


LOCAL = (
    "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "is_local",
    "local_files_only", "cache_dir", "_commit_hash", "trust_remote_code",
)  # fmt: skip
"""Keys of a tokenizer's config about its loading and origin."""


def _clean(folder: Path) -> None:
    """Removes machine-specific keys from a tokenizer's config."""
    path = folder / "tokenizer_config.json"
    if path.exists():
        data = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in data.items() if key not in LOCAL}
        if kept != data:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def of(folder: str | Path, name: str = "", base: str | None = None) -> Snapshot:
    """The snapshot in `folder`; its version is `name` and the first 12 digits of the digest.

    The version of an adapter (`base` given) covers the base's weights, too.
    """
    code = digest(folder)
    if base is not None:
        code = hashlib.sha256(f"{code} on {digest(base)}".encode()).hexdigest()
    return Snapshot(f"{name}-{code[:12]}" if name else code[:12], str(folder), base)


def verify(snapshot: Snapshot) -> Snapshot:
    """Returns the snapshot if its files still have the digest in its version; else InputError. Served models and
    missing folders are not checked."""
    folders = [folder for folder in (snapshot.path, snapshot.base) if folder]
    if all(Path(folder).is_dir() for folder in folders) and folders:
        found = of(snapshot.path, "", snapshot.base).version
        if not snapshot.version.endswith(found):
            raise InputError(
                f"{' or '.join(folders)} was changed after the snapshot {snapshot.version} was made (its digest is now "
                f"{found}): restore the files, or begin a new run"
            )
    return snapshot


def save(
    model: Writable, tokenizer: PreTrainedTokenizerBase, folder: str | Path, name: str = "", base: str | None = None
) -> Snapshot:
    """Writes model and tokenizer to `folder`, atomically, as safetensors that AutoModelForCausalLM loads.

    An adapter is written without its base, the folder `base`. FileExistsError if `folder` already holds something else:
    a snapshot is never overwritten.
    """
    from transformers.utils.logging import disable_progress_bar

    folder = Path(folder)
    disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        _clean(part)
        if base is not None:
            _named(part, base)
        for path in (part, *part.rglob("*")):  # transformers makes weights readable for the owner only
            path.chmod(0o755 if path.is_dir() else 0o644)
        if not (folder.exists() and any(folder.iterdir())):
            os.replace(part, folder)
        elif not _same(part, folder):
            raise FileExistsError(
                f"{folder} is not empty, and a snapshot is never overwritten: give another folder or remove it"
            )
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return of(folder, name, base)


def _same(one: Path, other: Path) -> bool:
    """Whether both folders hold the same model; the second may have a model card."""
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other)]
    return names[0] == names[1] - {Path("README.md")} and digest(one) == digest(other)
