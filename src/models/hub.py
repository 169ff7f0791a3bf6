"""Pretrained models by path: a local folder, a GGUF file, a model of the Hugging Face hub, or a LoRA adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..games.base import Message
from ..system.files import InputError
from . import snapshot
from .gguf import config_of, converted
from .load import checked
from .snapshot import Snapshot
from .thoughts import AUTO, Conduct

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BASE = "model.base=… (of an opponent: opponents.NAME.base=…)"
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Pretrained:
    """A model source: the model at `path`.

    path      a Hugging Face folder, a .gguf file, or ORG/NAME on the Hugging Face hub; or a LoRA adapter, as a folder
              or on the hub
    base      the adapter's base, one of the first three; None: the one in its adapter_config.json
    download  whether to fetch from the hub what the cache lacks or has in an older revision; False: no request is made
    revision  branch, tag or commit on the hub
    template, thought, keep_thoughts  use of the chat template, see `Conduct`
    """

    path: str
    base: str | None = None
    download: bool = False
    revision: str = "main"
    template: dict[str, Any] = field(default_factory=dict)
    thought: list[str] | str | None = AUTO
    keep_thoughts: bool = True

    def create(self, folder: Path, conversations: Iterable[Sequence[Message]], seed: int) -> Snapshot:
        """The snapshot at `path`, after checks; `seed` is unused. If the template options are set, `folder` gets links
        to its files, otherwise nothing.

        InputError or FileNotFoundError if it is absent, incomplete, pickled, or another kind of adapter than LoRA;
        InputError for a `base` if `path` is no adapter.
        """
        name, found = self._located(self.path, self.revision)
        if not (found / "adapter_config.json").is_file():
            if self.base is not None:
                raise InputError(f"model.base is {self.base}, but {self.path} is no adapter")
            return snapshot.of(self._used(checked(found), folder), name)
        named = _adapter_base(found)
        base = self.base or named
        if base is None:
            raise InputError(f"{self.path} is an adapter that names no base: say {BASE}")
        _, below = self._located(base, "main")
        return snapshot.of(found, name, str(self._used(checked(below), folder)))

    def config(self) -> PretrainedConfig:
        """The architecture of the model at `path`, or of its base; reads no weights.

        InputError or FileNotFoundError if it is absent.
        """
        from transformers import AutoConfig

        where = Path(self.path).expanduser()
        if where.suffix == ".gguf":
            return config_of(where)
        _, found = self._located(self.path, self.revision)
        if (found / "adapter_config.json").is_file():
            if (base := self.base or _adapter_base(found)) is None:
                raise InputError(f"{self.path} is an adapter that names no base: say {BASE}")
            return Pretrained(base, download=self.download).config()
        if not (found / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} has no config.json")
        config: PretrainedConfig = AutoConfig.from_pretrained(found, local_files_only=True)
        return config

    def _used(self, model: Path, folder: Path) -> Path:
        """`model`, or `folder` with links to its files and the requested conduct."""
        conduct = Conduct(self.template, self.thought, self.keep_thoughts)
        return model if conduct == Conduct() else conduct.laid(model, folder)

    def _located(self, path: str, revision: str) -> tuple[str, Path]:
        """(name, absolute local folder) of a folder, GGUF file or hub id. Absolute, because a run may be resumed from
        another directory."""
        local = Path(path).expanduser()
        if local.suffix == ".gguf":
            return local.stem, Path(converted(local).path)
        if local.exists() or not ID.fullmatch(path):
            return local.resolve().name, local.resolve()
        return path.rpartition("/")[2], self._cached(path, revision)

    def _cached(self, id: str, revision: str) -> Path:
        """The folder of a hub model in the Hugging Face cache ($HF_HOME), filled first if `download` is set."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            found = snapshot_download(
                id, revision=revision, allow_patterns=list(snapshot.PARTS), local_files_only=not self.download
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            if self.download:
                raise InputError(f"{id} cannot be downloaded: {str(error).strip().splitlines()[0]}") from error
            raise InputError(
                f"{id} is no folder here and not in the Hugging Face cache (revision {revision}): "
                f"say model.download=true to fetch it for model.path, or fetch it with: hf download {id}"
            ) from error
        return Path(found)


def opened(path: str, base: str | None = None) -> Snapshot:
    """The snapshot for the values of `model.path` and `model.base`. No request is made.

    InputError or FileNotFoundError as for `Pretrained.create`.
    """
    return Pretrained(path, base).create(Path(), (), 0)


def missing(path: str) -> str | None:
    """Why there is no model at `path` (a folder, a GGUF file, a hub id); None if there is one. Reads no weights."""
    try:
        Pretrained(path).config()
    except (InputError, OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def _adapter_base(folder: Path) -> str | None:
    """The base named in an adapter's config; InputError unless it is a LoRA adapter in safetensors."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder}/adapter_config.json is no JSON object") from error
    if kind != "LORA":
        raise InputError(f"{folder} is an adapter of kind {kind}: only LORA is supported")
    if not (folder / snapshot.ADAPTER).is_file():
        raise InputError(f"{folder} has no {snapshot.ADAPTER}: convert its weights to safetensors")
    return base if isinstance(base, str) and base else None
