"""Checks of untrusted model folders: before a model is built from one, and after its weights were loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.files import InputError
from .snapshot import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

INDEX = "model.safetensors.index.json"
ROOM = 16  # weights of the model for each number in the files, at most: files may hold packed numbers


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """Turns any exception of the libraries about a model folder into an InputError with folder and reason."""
    try:
        yield
    except (InputError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's: the device is too small, and the folder is good
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"the model folder {folder} cannot be used: {type(error).__name__}: {' '.join(lines)[:300]}"
        ) from error


def check_index(folder: Path) -> None:
    """InputError for an index of weights that names anything but safetensors in its own folder, which must be there."""
    path = folder / INDEX
    if not path.is_file():
        return
    with reading(folder):
        files = set(json.loads(path.read_text())["weight_map"].values())
    for file in sorted(files, key=str):
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{path} names {file!r}: weights are safetensors files in the same folder, and no others")
        if not (folder / file).is_file():
            raise InputError(f"{path} names {file}, which is missing: copy it into the folder")


def unequal(config: PretrainedConfig, parts: int) -> str | None:
    """Why a model of this config cannot be cut into so many equal parts (tensor parallelism); None where it can."""
    shape: Any = config.get_text_config(decoder=True)
    cut = {"attention heads": shape.num_attention_heads, "neurons of the MLP": getattr(shape, "intermediate_size", 0)}
    for what, count in cut.items():
        if count and count % parts:
            return f"backend.tensor_parallel: {parts} ranks cannot share {count} {what} equally; say a divisor"
    return None


def architecture(folder: str | Path) -> PretrainedConfig:
    """What config.json says of a causal language model; the attention is the library's own, whatever the file says.

    InputError for one that cannot be read, or is no such model. No weights are looked at.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with reading(folder):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise InputError(f"the model in {folder} is of type {config.model_type}, which is no causal language model")
        config._attn_implementation = None  # a name there may be that of a repository, whose code would be run
    return config


def check_size(folder: Path, config: PretrainedConfig) -> None:
    """InputError for a config that describes far more weights than the files hold: building it might never end."""
    import torch
    from transformers import AutoModelForCausalLM

    with reading(folder):
        stored = [shape for file in sorted(folder.glob("*.safetensors")) for shape in _shapes(file).values()]
        numbers = sum(torch.Size(shape).numel() for shape in stored)
        layers = config.get_text_config(decoder=True).num_hidden_layers
        if layers > len(stored):
            raise InputError(f"{folder}/config.json says {layers} layers, and its files hold {len(stored)} tensors")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        if (wanted := model.num_parameters()) > ROOM * numbers:
            raise InputError(f"{folder}/config.json describes {wanted:,} weights, and its files hold {numbers:,}")


def _shapes(file: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_slice(name).get_shape() for name in sorted(opened.keys())}


def loaded(folder: Path, config: PretrainedConfig, **how: Any) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The causal model in `folder` and the library's account of what it loaded: from safetensors only, without any code
    of the folder."""
    from transformers import AutoModelForCausalLM

    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
        output_loading_info=True, **how,
    )  # fmt: skip
    model, info = found
    return model, info


def check_loaded(folder: str | Path, info: Mapping[str, Any]) -> None:
    """InputError where the library made weights up or left some out. `info` is its account of the loading; tied weights
    count as one."""
    names = {
        "are missing": info["missing_keys"],
        "belong to no layer": info["unexpected_keys"],
        "have a wrong shape": [key[0] for key in info.get("mismatched_keys", ())],
    }
    if faults := [f"{len(found)} weights {what}, such as {min(found)}" for what, found in names.items() if found]:
        raise InputError(f"{folder} does not hold the model of its config: {'; '.join(faults)}")


def check_finite(folder: str | Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """InputError for weights that are NaN or infinite. (Those in 4 bits are made from others that were looked at.)"""
    for name, weight in weights:
        if not weight.is_floating_point() or hasattr(weight, "quant_state") or not weight.numel():
            continue
        if not all(isfinite(edge) for edge in weight.detach().aminmax()):
            raise InputError(f"{name} in {folder} holds NaN or infinite numbers: the file is damaged")


def check_words(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """InputError for a tokenizer with ids that the model has no embedding for. (Special tokens that are never said may
    lie above: some models for text alone come with those for pictures.)"""
    with reading(folder):
        rows = architecture(folder).get_text_config(decoder=True).vocab_size
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        above = [(id, word) for word, id in tokenizer.get_vocab().items() if id >= rows and id not in special]
    if above:
        id, word = max(above)
        raise InputError(f"the tokenizer in {folder} has the id {id} for {word!r}, and the model embeds {rows} ids")


def check_adapter(folder: Path) -> None:
    """InputError for an adapter's folder that holds none, or one of a kind that is not known here."""
    if not (folder / ADAPTER).is_file():
        raise FileNotFoundError(f"{folder} has no {ADAPTER}: a snapshot with a base is a LoRA adapter folder")
    with reading(folder):
        stored = json.loads((folder / "adapter_config.json").read_text())
        if stored["peft_type"] != "LORA" or stored.get("megatron_config"):
            raise InputError(
                f"{folder} holds an adapter of type {stored['peft_type']}, and only plain LORA is known here"
            )


def check_adapted(folder: str | Path, model: Any, name: str) -> None:
    """InputError where peft made weights of the adapter `name` up, or left some out."""
    from peft import get_peft_model_state_dict

    with reading(folder):
        stored = set(_shapes(Path(folder) / ADAPTER))
        made = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    check_loaded(folder, {"missing_keys": made.keys() - stored, "unexpected_keys": stored - made.keys()})
    check_finite(folder, made.items())
