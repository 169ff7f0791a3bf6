"""Shapes of published models, for planning without their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    # Jiang et al. 2023, arXiv:2310.06825, table 1; 7,241,732,096 parameters. Zephyr-7B-SFT is this model, tuned.
    "mistral_7b": ("mistral", {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32,
                               "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
                               "sliding_window": 4096}),
    # Touvron et al. 2023, arXiv:2307.09288, section 2.2 (as in arXiv:2302.13971, table 2), context 4096; 6,738,415,616
    # parameters.
    "llama2_7b": ("llama", {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32,
                            "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096}),
    # The same; 13,015,864,320 parameters.
    "llama2_13b": ("llama", {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
    "num_attention_heads": 40,
                             "num_key_value_heads": 40, "vocab_size": 32000, "max_position_embeddings": 4096}),
    # The same, with grouped heads; 68,976,648,192 parameters.
    "llama2_70b": ("llama", {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64,
                             "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096}),
}  # fmt: skip


def shape(name: str) -> PretrainedConfig:
    """The config of a published model; KeyError for a name that is not in `SHAPES`."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[name]
    return AutoConfig.for_model(kind, **sizes, tie_word_embeddings=False)
