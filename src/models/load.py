"""Loads local causal language models; refuses unsafe or incomplete folders with a message that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.files import InputError
from .folders import (
    architecture,
    check_adapted,
    check_adapter,
    check_finite,
    check_index,
    check_loaded,
    check_size,
    check_words,
    loaded,
    reading,
)  # fmt: skip
from .fourbit import FourBit, load_four_bit
from .snapshot import Snapshot

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    path: str | Path, dtype: str = "float32", device: str | torch.device = "cpu", four_bit: FourBit | None = None
) -> PreTrainedModel:
    """The causal model in the local folder `path`, in eval mode, from safetensors only and without any code of the
    folder.

    With `four_bit` its linear layers are stored in 4 bits and compute in `dtype`.

    FileNotFoundError if the folder, its config or its weights are missing; InputError if they are unusable: pickled, of
    another model, incomplete, or not finite; ValueError for an unknown `dtype`.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    folder = _folder(path)
    _needs_weights(folder)
    config = architecture(folder)
    check_size(folder, config)
    disable_progress_bar()  # one line per load would tear the live display
    with reading(folder):
        if four_bit is not None:
            model, info = load_four_bit(folder, config, four_bit, getattr(torch, dtype), torch.device(device))
        else:
            model, info = loaded(folder, config, dtype=getattr(torch, dtype))
    check_loaded(folder, info)
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]  # its annotations lose `self`
    check_finite(folder, model.named_parameters())
    return model


def load_policy(
    policy: Snapshot, dtype: str = "float32", device: str | torch.device = "cpu", trainable: bool = False
) -> PreTrainedModel:
    """Loads the model of a snapshot: its folder, or its adapter on the folder `base` (unmerged, as it was trained).

    The base is stored in 4 bits if the adapter's folder says so. A `trainable` adapter takes gradients and is in
    float32 for any `dtype`; its base takes none. `dtype` is float32, bfloat16 or float16. Errors as in `load_model`.
    """
    if policy.base is None:
        return load_model(policy.path, dtype, device)
    base = load_model(policy.base, dtype, device, FourBit.read(policy.path))
    return with_adapter(base, policy.path, device, trainable)


def with_adapter(
    model: PreTrainedModel, path: str | Path, device: str | torch.device = "cpu", trainable: bool = False
) -> PreTrainedModel:
    """The peft model of `model` with the LoRA adapter in the folder `path`; InputError if it is incomplete, or for
    another base."""
    from peft import PeftModel

    check_adapter(Path(path))
    with reading(path):
        adapted = PeftModel.from_pretrained(
            model, str(path), is_trainable=trainable, torch_device=str(device), autocast_adapter_dtype=trainable,
            local_files_only=True,
        )  # fmt: skip
    check_adapted(path, adapted, "default")
    return adapted.eval()  # type: ignore[return-value]  # PeftModel forwards everything to the model it wraps


def outline(policy: Snapshot, dtype: str) -> PreTrainedModel:
    """The result of `load_policy(policy, dtype, trainable=True)` without values, on PyTorch's meta device. Not for
    4-bit bases."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = architecture(_folder(policy.base or policy.path))
    model: Any
    with torch.device("meta"), reading(policy.path):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
        if policy.base is not None:
            adapter = LoraConfig.from_pretrained(policy.path)
            adapter.inference_mode = False
            model = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    outline: PreTrainedModel = model.eval()
    return outline


def load_tokenizer(path: str | Path, template: bool = True) -> PreTrainedTokenizerBase:
    """Loads the tokenizer in the local folder `path`; FileNotFoundError if it is missing, InputError if it is
    damaged, or has no chat template although `template` is true."""
    tokenizer = _tokenizer(path)
    check_words(path, tokenizer)
    if template and not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer in {path} has no chat template, so conversations cannot be rendered: "
            "put the model's template beside it as chat_template.jinja"
        )
    return tokenizer


def vocabulary(path: str | Path) -> dict[str, int]:
    """Every token of the tokenizer in the local folder `path`, with its id. FileNotFoundError if there is none."""
    return _tokenizer(path).get_vocab()


def _tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    folder = _folder(path)
    if not any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        raise FileNotFoundError(
            f"{folder} has no tokenizer (tokenizer.json): save the model's tokenizer into the same folder"
        )
    with reading(folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def checked(path: str | Path) -> Path:
    """The absolute path of a local model folder, after checking config, safetensors, and a tokenizer with a chat
    template.

    FileNotFoundError or InputError if it lacks any of them.
    """
    folder = _folder(path).resolve()
    load_tokenizer(folder)
    _needs_weights(folder)
    return folder


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model folder {folder} does not exist: give a local Hugging Face folder, a .gguf file, or ORG/NAME"
        )
    if not (folder / "config.json").is_file():
        hint = (
            "an adapter folder needs its base"
            if (folder / "adapter_config.json").is_file()
            else "is it a Hugging Face folder?"
        )
        raise FileNotFoundError(f"{folder} has no config.json: {hint}")
    return folder


def _needs_weights(folder: Path) -> None:
    check_index(folder)
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder} has pickled weights only ({', '.join(pickled[:3])}), which can run code when they are opened: "
            "convert them to safetensors"
        )
    raise FileNotFoundError(f"{folder} has no weights: expected model.safetensors or its shards")
