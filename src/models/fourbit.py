"""Base models in 4 bits (bitsandbytes), for adapters that were trained on one: QLoRA, Dettmers et al. 2023, arXiv
2305.14314."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folders import loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PretrainedConfig, PreTrainedModel

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # speaks of a kernel that is not needed

FILE = "quantization.json"  # in an adapter's folder: the base below it stands in 4 bits, in training and in play


@dataclass(frozen=True)
class FourBit:
    """How linear layers are stored: 16 levels at the quantiles of a normal distribution (NF4), a scale for every 64
    weights.

    `double` quantises the scales as well (0.13 instead of 0.5 bits a weight). The head and the embeddings stay as they
    are.
    """

    double: bool = True

    def write(self, folder: Path) -> None:
        """Says in an adapter's folder how its base is stored."""
        (folder / FILE).write_text(json.dumps({"type": "nf4", **asdict(self)}) + "\n")

    @staticmethod
    def read(folder: str | Path) -> FourBit | None:
        """How the base of the adapter in `folder` is stored; None: in full. ValueError for a type that is not known."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        if stored.get("type") != "nf4" or not isinstance(stored.get("double"), bool):
            raise ValueError(f"{path} holds {stored}, expected type nf4 and double true or false")
        return FourBit(stored["double"])

    @staticmethod
    def of(model: Any) -> FourBit | None:
        """How `model` was loaded."""
        config = getattr(model.config, "quantization_config", None)
        return None if config is None else FourBit(config.bnb_4bit_use_double_quant)


def load_four_bit(
    folder: Path, config: PretrainedConfig, four_bit: FourBit, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The causal model in `folder` with 4-bit linear layers that compute in `dtype`, and the library's account of what
    it loaded; everything else is in `dtype`.

    The 4-bit weights are made from the stored ones as they are, so they are the same whatever `dtype` is. They are kept
    in tensors of `dtype`, the form that sharding asks for. ImportError when bitsandbytes or accelerate is missing.
    """
    from transformers import BitsAndBytesConfig

    stored = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=four_bit.double,
        bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_storage=dtype,
    )  # fmt: skip
    model, info = loaded(folder, config, dtype="auto", quantization_config=stored, device_map={"": device})
    for module in model.modules():
        _settle(module, dtype)
    model.config.dtype = dtype
    return model.eval(), info


def _settle(module: Any, dtype: torch.dtype) -> None:
    """Casts a module's own weights to `dtype`, 4-bit ones aside, whose layout in memory is fixed.

    On CPUs with AVX512-BF16 bitsandbytes 0.50 packs a layer's weights anew at its first forward without gradient, for
    good: the gradients of every later training step are then wrong, and so is whatever is merged, with no error.
    """
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
    for name, weight in module.named_parameters(recurse=False):
        if weight.is_floating_point() and not hasattr(weight, "quant_state"):
            getattr(module, name).data = weight.data.to(dtype)
