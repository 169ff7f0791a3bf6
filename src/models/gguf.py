"""Converts GGUF files to Hugging Face folders: dequantized once per machine and kept in the user's cache.

GGUF is llama.cpp's format: weights (often quantized), tokenizer and chat template in one file. transformers reads many
architectures from it, but can neither train nor save a model that was opened from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..games.base import Message
from ..system.files import InputError, write_json
from . import snapshot
from .snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

RECORD = "gguf.json"  # beside the weights: the source file, and the digest of the folder


@dataclass(frozen=True)
class Packaged:
    """A model source: the GGUF `file` in an installed Python package of weights.

    The package is located, not imported. `sha256` is the file's digest in hex. `install` is the command that installs
    the package.
    """

    package: str
    file: str
    sha256: str
    install: str

    def create(self, folder: Path, conversations: Iterable[Sequence[Message]], seed: int) -> Snapshot:
        """The snapshot in the user's cache, converted on first use; nothing is written to `folder`.

        InputError if the package is not installed, or its file has another digest.
        """
        return converted(self._located(), self.sha256)

    def config(self) -> PretrainedConfig:
        """The architecture; reads no weights. InputError if the package is not installed."""
        return config_of(self._located())

    def _located(self) -> Path:
        found = find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise InputError(f"the package {self.package} is not installed: {self.install}")
        return Path(found.submodule_search_locations[0]) / self.file


def cache() -> Path:
    """The folder of converted models: parley/models in $XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "parley" / "models"


def converted(file: Path, sha256: str | None = None) -> Snapshot:
    """The snapshot of a GGUF file: a folder in `cache()` with float32 weights, named after the file and its digest.

    An existing folder is used if its digest is the recorded one. InputError if the file is missing, has another digest
    than `sha256`, or cannot be read as a causal model with a chat template, or if the cached folder was changed.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    with open(file, "rb") as stream:
        code = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 not in (None, code):
        raise InputError(f"{file} has the SHA-256 {code}, and {sha256} was expected: it is damaged, or another version")
    folder = cache() / f"{file.stem}-{code[:12]}"
    if not folder.is_dir():
        _write(file, folder)
    return _checked(folder, file.stem)


def config_of(file: Path) -> PretrainedConfig:
    """The transformers config of a GGUF file, from its header alone. InputError if it is absent or unreadable."""
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if find_spec("gguf") is None:
        raise InputError(f"{file.name} needs the package gguf: pip install 'parley-lm[gguf]'")
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # the file is a stranger's, and its readers raise whatever they stumble over
        raise InputError(f"{file} cannot be read as a GGUF file: {error}") from error
    return config


def _write(file: Path, folder: Path) -> None:
    """Converts in a temporary folder and renames it to `folder`; another process may have been faster."""
    model, tokenizer = _read(file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as draft:
        made = snapshot.save(model, tokenizer, Path(draft) / "model")
        write_json(Path(made.path) / RECORD, {"file": file.name, "digest": snapshot.digest(made.path)})
        with suppress(OSError):
            os.rename(made.path, folder)


def _checked(folder: Path, name: str) -> Snapshot:
    try:
        recorded = json.loads((folder / RECORD).read_text())["digest"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder} has no readable {RECORD}: remove the folder, and it is converted again") from error
    if recorded != snapshot.digest(folder):
        raise InputError(f"{folder} was changed since it was converted: remove it, and it is converted again")
    return snapshot.of(folder, name)


def _read(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(model, tokenizer) of a GGUF file, without the marks of their origin."""
    if find_spec("gguf") is None:
        raise InputError(f"{file.name} needs the package gguf: pip install 'parley-lm[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        opened = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # the file is a stranger's, and its readers raise whatever they stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file} cannot be opened as a causal language model: {reason}") from error
    if not tokenizer.chat_template:
        raise InputError(f"{file} has no chat template, so conversations cannot be rendered: take an instruct model")
    config = opened.config
    del config.quantization_config  # transformers refuses to save a model with the one of a GGUF file
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(opened.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = opened.generation_config
    return model, tokenizer
