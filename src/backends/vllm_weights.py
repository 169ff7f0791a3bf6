"""Prepares weights for a vLLM engine: from a folder, or from a learner during training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.bases import Weights
from ..models.folders import architecture
from ..models.snapshot import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor


def stored(folder: str) -> Iterator[tuple[str, Tensor]]:
    """The weights of a Hugging Face folder by name; tied weights appear under each of their names.

    Files store a tied matrix once. An engine with its own copy for the head (vLLM's CPU build) would otherwise keep the
    old one.
    """
    from safetensors import safe_open

    ties = _ties(folder)
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names = set(opened.keys())
            for name in sorted(names):
                tensor = opened.get_tensor(name)
                yield name, tensor
                for other in ties.get(name, ()):
                    if other not in names:
                        yield other, tensor


def given(weights: Weights, folder: str) -> Iterator[tuple[str, Tensor]]:
    """A learner's weights of the model in `folder`; tied weights appear under each of their names.

    ValueError, at the end, if a weight in the folder's files is missing.
    """
    ties, seen = _ties(folder), set()
    tied = {name for names in ties.values() for name in names}
    for name, tensor in weights:
        if name not in tied:  # its source comes, too
            for each in (name, *ties.get(name, ())):
                seen.add(each)
                yield each, tensor.detach()
    _check(seen, {name for file in Path(folder).glob("*.safetensors") for name in _names(file)})


def write_adapter(weights: Weights, old: str, folder: str) -> None:
    """Writes an adapter with a learner's weights and the config of `old` into `folder`, because vLLM reads adapters
    only from files. ValueError if a weight of `old` is missing."""
    from safetensors.torch import save_file

    names = _names(Path(old) / ADAPTER)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights if name in names}
    _check(set(tensors), names)
    save_file(tensors, Path(folder) / ADAPTER)
    shutil.copy(Path(old) / "adapter_config.json", folder)


def _check(seen: set[str], wanted: set[str]) -> None:
    if missing := wanted - seen:
        raise ValueError(f"the given weights lack {len(missing)} of the model, such as {min(missing)}")


def _names(file: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return set(opened.keys())


def _ties(folder: str) -> dict[str, list[str]]:
    """The weight in the files -> the names that are tied to it."""
    import torch
    from transformers import AutoModelForCausalLM

    config = architecture(folder)
    if not config.get_text_config(decoder=True).tie_word_embeddings:
        return {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tied: dict[str, list[str]] = {}
    for name, source in (model.all_tied_weights_keys or {}).items():
        tied.setdefault(source, []).append(name)
    return tied
