"""Snapshots on disk: a Hugging Face folder whose version is a digest of what is in it, written once and never
changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Protocol

from ..system.files import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "quantization.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "*.jinja", "additional_chat_templates/*.jinja",
)  # fmt: skip
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy with an immutable version: a Hugging Face folder, a LoRA adapter folder on the folder `base`, or
    (without a path) what a server has under the name `served`."""

    version: str
    path: str
    base: str | None = None
    served: str | None = None


class Writable(Protocol):
    """What writes its weights and config into a folder: a transformers model, an `Adapter`,
    `adapter.writable(model)`."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Writes safetensors and JSON into an existing folder."""


def digest(folder: str | Path) -> str:
    """Hex SHA-256 over the names and contents of a folder's weights, configs and tokenizer files.

    Other files (a training log, a README) do not change it. FileNotFoundError when the folder has none of them.
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
    """A file's SHA-256, read again only when its size, time or inode has changed (weights can be many gigabytes)."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of(folder: str | Path, name: str = "", base: str | None = None) -> Snapshot:
    """The snapshot that lies in `folder`; its version is `name` and the first 12 digits of the digest.

    The version of an adapter (`base` given) names the weights it stands on, too.
    """
    code = digest(folder)
    if base is not None:
        code = hashlib.sha256(f"{code} on {digest(base)}".encode()).hexdigest()
    return Snapshot(f"{name}-{code[:12]}" if name else code[:12], str(folder), base)


def verify(snapshot: Snapshot) -> Snapshot:
    """The snapshot, if its files are still those that its version names; InputError if not. What a server has, and a
    folder that is gone, cannot be looked at."""
    folders = [folder for folder in (snapshot.path, snapshot.base) if folder]
    if all(Path(folder).is_dir() for folder in folders) and folders:
        found = of(snapshot.path, "", snapshot.base).version
        if not snapshot.version.endswith(found):
            raise InputError(
                f"{' or '.join(folders)} was changed after the snapshot {snapshot.version} was made (its digest is now "
                f"{found}): put the files back, or begin a new run"
            )
    return snapshot


def save(
    model: Writable, tokenizer: PreTrainedTokenizerBase, folder: str | Path, name: str = "", base: str | None = None
) -> Snapshot:
    """Writes model and tokenizer to `folder`, whole or not at all, as safetensors that AutoModelForCausalLM loads.

    An adapter stands on the folder `base`, and is written alone. FileExistsError when `folder` already holds something
    else: a snapshot is never overwritten.
    """
    from transformers.utils.logging import disable_progress_bar

    folder = Path(folder)
    disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        for path in (part, *part.rglob("*")):  # transformers leaves weights readable to their owner alone
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
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, other)]
    return names[0] == names[1] and digest(one) == digest(other)
