"""4-bit base models (bitsandbytes) for adapters trained on them: QLoRA, Dettmers et al. 2023, arXiv:2305.14314."""

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

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # warns about a kernel that is not needed

FILE = "quantization.json"  # in an adapter's folder: its base is stored in 4 bits, in training and in play


@dataclass(frozen=True)
class FourBit:
    """The storage of linear layers: 16 levels at the quantiles of a normal distribution (NF4), one scale per 64
    weights.

    `double` quantizes the scales as well (0.13 instead of 0.5 bits per weight). Head and embeddings are not quantized.
    """

    double: bool = True

    def write(self, folder: Path) -> None:
        """Records the storage of the base in an adapter's folder."""
        (folder / FILE).write_text(json.dumps({"type": "nf4", **asdict(self)}) + "\n")

    @staticmethod
    def read(folder: str | Path) -> FourBit | None:
        """The storage of the base of the adapter in `folder`; None: full precision. ValueError for an unknown type."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        if stored.get("type") != "nf4" or not isinstance(stored.get("double"), bool):
            raise ValueError(f"{path} holds {stored}, expected type nf4 and double true or false")
        return FourBit(stored["double"])

    @staticmethod
    def of(model: Any) -> FourBit | None:
        """The 4-bit storage of `model`, or None."""
        config = getattr(model.config, "quantization_config", None)
        return None if config is None else FourBit(config.bnb_4bit_use_double_quant)


def load_four_bit(
    folder: Path, config: PretrainedConfig, four_bit: FourBit, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Loads the causal model in `folder` with 4-bit linear layers that compute in `dtype` and all other weights in
    `dtype`; returns it with the library's loading report.

    The 4-bit weights are made from the stored ones, so they do not depend on `dtype`. They are kept in tensors of
    `dtype`, as sharding requires. ImportError if bitsandbytes or accelerate is missing.
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
    """Casts a module's own weights to `dtype`, except 4-bit weights, and turns off their repacking.

    On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks a layer's weights at its first forward without gradient,
    permanently: later gradients and merged weights would be wrong without an error.
    """
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
    for name, weight in module.named_parameters(recurse=False):
        if weight.is_floating_point() and not hasattr(weight, "quant_state"):
            getattr(module, name).data = weight.data.to(dtype)
