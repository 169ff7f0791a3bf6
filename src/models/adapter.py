"""Low-rank adapters (LoRA): creates, stores and merges them.

Hu et al. 2021, "LoRA", arXiv 2106.09685: a linear layer W x becomes W x + (alpha / r) B A x, and only A [r, in] and
B [out, r] are trained. An adapter's snapshot is a folder with A and B of each layer, plus the folder of its base.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ..system.files import InputError
from ..system.seeds import derive
from . import snapshot as snapshots
from .folders import architecture, reading
from .fourbit import FourBit
from .load import load_model, load_tokenizer, with_adapter
from .snapshot import Snapshot

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

Targets = Literal["all-linear"] | list[str]


@dataclass(frozen=True)
class LoRA:
    """Adapters of rank `r` on all linear layers except the head, or on those named in `targets` (q_proj, v_proj, …).

    There is no dropout: the policy and its reference must be the same function.
    """

    r: int = 16
    alpha: int = 32
    targets: Targets = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0:
            raise ValueError(f"r {self.r} must be at least 1 and alpha {self.alpha} above 0")

    @property
    def four_bit(self) -> FourBit | None:
        """4-bit storage of the base in training and play; None: in its own precision."""
        return None

    def create(self, base: Snapshot, folder: str | Path, seed: int) -> Snapshot:
        """Creates an adapter on `base`, initialised from `seed`. It does not change the model yet: B is 0 (A is
        He-uniform, as published).

        Reads only the shapes of the base. ValueError if `base` is an adapter itself, InputError if it lacks a layer
        that `targets` names.
        """
        if base.base is not None:
            raise ValueError(f"{base.version} is an adapter already: train that one, or merge it first (task=merge)")
        config, shapes = self._shapes(base.path)
        adapter = Adapter(config, {name: _fresh(name, shape, seed) for name, shape in shapes.items()}, self.four_bit)
        return snapshots.save(adapter, load_tokenizer(base.path), folder, "start", base.path)

    def config(self) -> LoraConfig:
        """The adapter's peft config."""
        from peft import LoraConfig

        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return LoraConfig(r=self.r, lora_alpha=self.alpha, target_modules=targets, task_type="CAUSAL_LM")

    def reach(self, base: Snapshot) -> str:
        """One line: the number of adapted layers of `base`, their share of its weights, and the largest weights that
        are not adapted (such as a mixture's experts in one tensor)."""
        import torch
        from transformers import AutoModelForCausalLM

        shapes = self._shapes(base.path)[1]
        layers = {name.partition(".lora_")[0].replace(".base_layer", "") for name in shapes}
        with torch.device("meta"), reading(base.path):
            model = AutoModelForCausalLM.from_config(architecture(base.path), trust_remote_code=False)
        sizes = {name: weight.numel() for name, weight in model.named_parameters()}
        left: Counter[str] = Counter()
        for name, size in sizes.items():
            if f"base_model.model.{name.rpartition('.')[0]}" not in layers:
                left[".".join(part for part in name.split(".")[-3:] if not part.isdigit())] += size
        whole = sum(sizes.values())
        others = ", ".join(f"{name} {size / whole:.1%}" for name, size in left.most_common(3))
        return (
            f"the adapter changes {len(layers)} layers, {1 - left.total() / whole:.1%} of the weights of "
            f"{base.version}; the rest stays unchanged ({others})"
        )

    def _shapes(self, base: str) -> tuple[LoraConfig, dict[str, torch.Size]]:
        import torch
        from peft import get_peft_model, get_peft_model_state_dict
        from transformers import AutoModelForCausalLM

        config = self.config()
        with torch.device("meta"), reading(base):
            model = AutoModelForCausalLM.from_config(architecture(base), trust_remote_code=False)
            self._check(model, base)
            adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
        tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        return config, {name: tensor.shape for name, tensor in tensors.items()}

    def _check(self, model: PreTrainedModel, base: str) -> None:
        """Refuses targets that match no layer, and a head tied to the embedding.

        peft ignores an unmatched target silently if another one matches; an adapter on a tied head cannot be merged.
        """
        from torch.nn import Linear
        from transformers.pytorch_utils import Conv1D

        tied = bool(model.config.get_text_config().tie_word_embeddings)
        head = model.get_output_embeddings() if tied else None
        layers = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (Linear, Conv1D)) and module is not head
        ]
        wrong = (
            []
            if isinstance(self.targets, str)
            else [name for name in self.targets if not any(_fits(name, each) for each in layers)]
        )
        if wrong or not self.targets:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            tied_head = ", not the head, which shares its weights with the embedding" if tied else ""
            named = ", ".join(wrong) or "nothing"
            raise InputError(
                f"adapter.targets names {named}, but the layers of {base} that can be adapted are {there}{tied_head}"
            )


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA on a base whose linear layers are stored in 4 bits (`FourBit`), in training and in play.

    The start of self-play is the 4-bit base, too, so that a gain is not just a repair of the rounding error.
    """

    double: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(f"adapter=qlora needs {' and '.join(missing)}: pip install 'parley-lm[qlora]'")

    @property
    def four_bit(self) -> FourBit:
        return FourBit(self.double)


def _fits(target: str, layer: str) -> bool:
    """Whether `target` is the layer's name or its last part, as in peft's matching."""
    return layer == target or layer.endswith(f".{target}")


def _fresh(name: str, shape: torch.Size, seed: int) -> Tensor:
    import torch

    if ".lora_B." in name:
        return torch.zeros(shape)
    if ".lora_A." not in name:
        raise ValueError(f"targets: {name} belongs to no linear layer, and only these can be adapted")
    bound = 1.0 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(
        -bound, bound, generator=torch.Generator().manual_seed(derive(seed, "adapter", name))
    )


@dataclass(frozen=True)
class Adapter:
    """An adapter without its base. The base's location is not part of its version."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]
    four_bit: FourBit | None

    @staticmethod
    def of(model: PeftModel, state: Mapping[str, Tensor] | None = None) -> Adapter:
        """The trained adapter of `model`; `state` is the model's state dict if its parameters are sharded."""
        from peft import get_peft_model_state_dict

        config: Any = model.peft_config[model.active_adapter]
        tensors = get_peft_model_state_dict(model, state, model.active_adapter, save_embedding_layers=False)
        return Adapter(config, tensors, FourBit.of(model))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes weights and config in peft's format, and the storage of the base."""
        from safetensors.torch import save_file

        plain = {
            key: sorted(value) if isinstance(value, set) else value for key, value in self.config.to_dict().items()
        }
        folder = Path(folder)
        snapshots.write_adapter_config(folder, {**plain, snapshots.BASE: None, "inference_mode": True})
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()},
            folder / snapshots.ADAPTER,
        )
        if self.four_bit is not None:
            self.four_bit.write(folder)


@dataclass(frozen=True)
class _Gathered:
    """A sharded model with its full weights gathered on this rank."""

    model: PreTrainedModel
    state: Mapping[str, Tensor]

    def save_pretrained(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder, state_dict=dict(self.state))


def writable(model: PreTrainedModel | PeftModel, state: Mapping[str, Tensor] | None = None) -> snapshots.Writable:
    """The part of a trained model that `snapshot.save` writes: the adapter alone if there is one. `state` holds the
    full weights if those of `model` are sharded."""
    if hasattr(model, "peft_config"):
        return Adapter.of(cast("PeftModel", model), state)
    return model if state is None else _Gathered(cast("PreTrainedModel", model), state)


def merge(snapshot: Snapshot, folder: str | Path, name: str = "merged") -> Snapshot:
    """Writes `snapshot` to `folder` as a Hugging Face model that needs no adapter, in the dtype of its base.

    The adapter is added to the base in full precision, because its 4-bit form would be rounded again. So the merged
    model of a 4-bit base differs from the trained one by the rounding error of the base.
    """
    base = snapshot.base or snapshot.path
    model = load_model(base, str(architecture(base).dtype or "float32").removeprefix("torch."))
    if snapshot.base is not None:
        adapted = with_adapter(model, snapshot.path)
        model = adapted.merge_and_unload(safe_merge=True)  # type: ignore[operator]  # peft forwards it by name
    return snapshots.save(model, load_tokenizer(base), folder, name)
