"""Loads a local causal language model, refusing what is unsafe or incomplete with a message that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..games.base import Message
from ..system.files import InputError
from . import snapshot
from .fourbit import FourBit, load_four_bit
from .snapshot import Snapshot
from .thoughts import AUTO, Conduct

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    path: str | Path, dtype: str = "float32", device: str | torch.device = "cpu", four_bit: FourBit | None = None
) -> PreTrainedModel:
    """The causal model in the local folder `path`, in eval mode, from safetensors only and without any code of the
    folder.

    With `four_bit` its linear layers are stored in 4 bits, and compute in `dtype`.

    FileNotFoundError or ValueError when the folder is missing, has no config, or has pickled weights only.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    folder = _folder(path)
    _needs_weights(folder)
    disable_progress_bar()  # one line per load would tear the live display
    if four_bit is not None:
        return load_four_bit(folder, four_bit, getattr(torch, dtype), torch.device(device))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return model.to(torch.device(device)).eval()  # type: ignore[arg-type]  # its annotations lose `self`


def load_policy(
    policy: Snapshot, dtype: str = "float32", device: str | torch.device = "cpu", trainable: bool = False
) -> PreTrainedModel:
    """The model of a snapshot: its folder, or its adapter on the folder `base` (unmerged, as it was trained).

    The base is stored in 4 bits where the adapter's folder says so. A `trainable` adapter takes gradients and is in
    float32, whatever `dtype` is; its base takes none.
    """
    if policy.base is None:
        return load_model(policy.path, dtype, device)
    from peft import PeftModel

    adapter = Path(policy.path)
    if not (adapter / snapshot.ADAPTER).is_file():
        raise FileNotFoundError(f"{adapter} has no {snapshot.ADAPTER}: a snapshot with a base is a LoRA adapter folder")
    adapted = PeftModel.from_pretrained(
        load_model(policy.base, dtype, device, FourBit.read(adapter)), str(adapter), is_trainable=trainable,
        torch_device=str(device), autocast_adapter_dtype=trainable, local_files_only=True,
    )  # fmt: skip
    return adapted.eval()  # type: ignore[return-value]  # PeftModel forwards everything to the model it wraps


def outline(policy: Snapshot, dtype: str) -> PreTrainedModel:
    """All of what `load_policy(policy, dtype, trainable=True)` gives but the values: a model on PyTorch's meta device.
    Bases in 4 bits have no outline."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(_folder(policy.base or policy.path), local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
        if policy.base is not None:
            adapter = LoraConfig.from_pretrained(policy.path)
            adapter.inference_mode = False
            model = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    return model.eval()


def load_tokenizer(path: str | Path, template: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer in the local folder `path`; ValueError when it is missing, or has no chat template and is to have
    one."""
    tokenizer = _tokenizer(path)
    if template and not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer in {path} has no chat template, so conversations cannot be rendered: "
            "put the model's template beside it as chat_template.jinja"
        )
    return tokenizer


def vocabulary(path: str | Path) -> dict[str, int]:
    """Every token of the tokenizer in the local folder `path`, with its id. FileNotFoundError when there is none."""
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
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@dataclass(frozen=True)
class Folder:
    """A model source: the local Hugging Face folder `path`, and how its chat template is used (see `Conduct`)."""

    path: str
    template: dict[str, Any] = field(default_factory=dict)
    thought: list[str] | str | None = AUTO
    keep_thoughts: bool = True

    def create(self, folder: Path, conversations: Iterable[Sequence[Message]], seed: int) -> Snapshot:
        """The snapshot in `path`, after a look at its parts; nothing is drawn. `folder` is written, as links to `path`,
        only where the template is used in a way of its own."""
        mine = _folder(self.path).resolve()  # a run may be resumed from elsewhere
        load_tokenizer(mine)
        _needs_weights(mine)
        conduct = Conduct(self.template, self.thought, self.keep_thoughts)
        return snapshot.of(mine if conduct == Conduct() else conduct.laid(mine, folder), mine.name)


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model folder {folder} does not exist: give a local Hugging Face folder (nothing is downloaded)"
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
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder} has pickled weights only ({', '.join(pickled[:3])}), which can run code when they are opened: "
            "convert them to safetensors"
        )
    raise FileNotFoundError(f"{folder} has no weights: expected model.safetensors or its shards")
