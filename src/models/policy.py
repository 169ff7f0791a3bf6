"""The policy module: the module that is wrapped, sharded and adapted, called only through `forward`.

Legend: B rows, T tokens of a row, N supervised tokens, D hidden width, V vocabulary, K tokens of a chunk.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..batches.packing import Batch, Budget, MicroBatch, collate, pack, supervised
from ..data.sample import Sample, Utterance
from ..system.seeds import rng
from .attention import PATHS, runs
from .dropout import parts

EVEN = 128  # varying sizes are padded to a multiple of this if kernels are compiled per shape
WINDOWED = ("sliding_attention",)
KNOWN_LAYERS = ("full_attention", *WINDOWED)


class Policy(nn.Module):
    """A causal language model of transformers (or one inside a PEFT model) that returns log-probs of supervised tokens.

    `head_chunk` is the number of tokens whose logits are in memory at one time, including the backward. `packable`
    tells that the model passed the check with rows of trees; otherwise a batch must hold one stream per row. All
    dropout is off.
    """

    def __init__(self, model: nn.Module, head_chunk: int = 1024, packable: bool = True) -> None:
        super().__init__()
        self.model = model
        self.head_chunk = head_chunk
        self.packable = packable
        without_dropout(model)
        with suppress(ValueError):  # models that do not declare their blocks go without
            for part in parts(self.causal_lm):
                part.register_forward_pre_hook(_cast_once, with_kwargs=True)

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself, inside any adapter."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def use_block_sparse_attention(self) -> None:
        """Switches to flex attention if the model supports it: a packed row then costs only its trees, not T * T.

        Its backward runs on GPUs only.
        """
        if self.causal_lm._supports_flex_attn:
            self.causal_lm.set_attn_implementation("flex_attention")

    def use_path_attention(self) -> None:
        """Switches to attention along the paths of trees, which skips masked blocks on any device, if it is exact:

        only for models that use PyTorch's attention kernel without windows.
        """
        config = self.causal_lm.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        windows = getattr(config, "sliding_window", None) if kinds is None else set(kinds) != {"full_attention"}
        if self.causal_lm._supports_attention_backend and config._attn_implementation == "sdpa" and not windows:
            self.causal_lm.set_attn_implementation(PATHS)

    @property
    def attention_tokens(self) -> float:
        """The row length at which masked attention costs as much as the rest of the model per token (see `Budget`).

        Per token a block has about 24 D^2 operations besides 4 T D of attention, equal at T = 6 D; on a CPU the
        measured times are equal at 5 D (width 128, forward and backward).
        """
        config = self.causal_lm.config.get_text_config()
        if config._attn_implementation in ("flex_attention", PATHS):
            return math.inf
        return (6.0 if self.causal_lm.device.type == "cuda" else 5.0) * int(config.hidden_size)

    def forward(self, batch: Batch, entropy: bool = False, fixed: Beside | None = None) -> Any:
        """Log-probs [N], float32, of `batch.target_N` given the tokens before them in their own stream; with `entropy`
        or a `fixed` model a tuple, in which follow the entropies in nats of the distributions there [N], and the KL
        divergences in nats to those of that model [N]."""
        hidden_ND = self.hidden(batch)
        beside_ND = None
        if fixed is not None:
            with torch.no_grad():
                beside_ND = fixed.hidden(batch)
        if len(batch.target_N) <= self.head_chunk:
            return self._head(hidden_ND, batch.target_N, beside_ND, entropy, fixed)
        chunks = [hidden_ND.split(self.head_chunk), batch.target_N.split(self.head_chunk)]
        chunks.append([None] * len(chunks[0]) if beside_ND is None else beside_ND.split(self.head_chunk))
        parts: list[Any] = [
            checkpoint(self._head, *chunk, entropy, fixed, use_reentrant=False) for chunk in zip(*chunks, strict=True)
        ]
        return tuple(map(torch.cat, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else torch.cat(parts)

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden states [N, D] from which the supervised tokens are predicted."""
        inner = self.causal_lm
        packed: dict[str, Any] = {}
        if not batch.causal:
            if not self.packable:
                raise ValueError("this model cannot take packed rows: plan with Budget(trees=False)")
            packed = {"position_ids": batch.positions_BT, **_sight(inner, batch)}
        hidden_BTD = inner.base_model(input_ids=batch.tokens_BT, use_cache=False, **packed).last_hidden_state
        hidden_ND: Tensor = hidden_BTD.flatten(0, 1).index_select(0, batch.source_N)
        return hidden_ND

    def _head(
        self, hidden_KD: Tensor, target_K: Tensor, beside_KD: Tensor | None, entropy: bool, fixed: Beside | None
    ) -> Any:
        logits_KV = self.logits(hidden_KD)
        found = [-F.cross_entropy(logits_KV, target_K, reduction="none")]
        if entropy:
            found.append(logits_KV.logsumexp(-1) - (logits_KV.softmax(-1) * logits_KV).sum(-1))
        if fixed is not None and beside_KD is not None:
            with torch.no_grad():
                fixed_KV = fixed.logits(beside_KD).log_softmax(-1)
            logprob_KV = logits_KV.log_softmax(-1)
            found.append((logprob_KV.exp() * (logprob_KV - fixed_KV)).sum(-1))
        return found[0] if len(found) == 1 else tuple(found)

    def logits(self, hidden_KD: Tensor) -> Tensor:
        """[K, V], float32, of hidden states [K, D]: for a chunk at a time."""
        inner = self.causal_lm
        config = inner.config.get_text_config()
        logits_KV: Tensor = inner.get_output_embeddings()(_even(hidden_KD))[: len(hidden_KD)].float()
        scale, scaling = getattr(config, "logit_scale", 1.0), getattr(config, "logits_scaling", 1.0)
        if (scale, scaling) != (1.0, 1.0):  # costs a pass over all logits, and another one backward
            logits_KV = logits_KV * scale / scaling
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            logits_KV = torch.tanh(logits_KV / cap) * cap
        return logits_KV

    def whole(self, ids_T: Tensor) -> Tensor:
        """Log-probs [T - 1] of one stream's tokens after the first, from the model's own forward."""
        logits_TV: Tensor = self.causal_lm(input_ids=ids_T[None], use_cache=False).logits[0].float()
        return logits_TV[:-1].log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]


class Beside(Protocol):
    """A frozen model with whose distributions the policy's are compared."""

    def hidden(self, batch: Batch) -> Tensor:
        """As `Policy.hidden`."""

    def logits(self, hidden_KD: Tensor) -> Tensor:
        """[K, V], float32."""


class Beneath:
    """The base of a policy's own adapter, which is disabled during its forward."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def hidden(self, batch: Batch) -> Tensor:
        adapted: Any = self.policy.model
        with adapted.disable_adapter():
            return self.policy.hidden(batch)

    def logits(self, hidden_KD: Tensor) -> Tensor:
        adapted: Any = self.policy.model
        with adapted.disable_adapter():
            return self.policy.logits(hidden_KD)


def _even(hidden_KD: Tensor) -> Tensor:
    """Pads with rows of zeros in half precision on a CPU, where oneDNN would compile a product for every K."""
    half = hidden_KD.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    spare = -len(hidden_KD) % EVEN if hidden_KD.device.type == "cpu" and half else 0
    return F.pad(hidden_KD, (0, 0, 0, spare)) if spare else hidden_KD


def _cast_once(
    _part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Casts the input of a block's part to autocast's dtype once; otherwise each product would cast it and keep a copy
    for the backward."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if (
        not isinstance(hidden, Tensor)
        or hidden.dtype != torch.float32
        or not torch.is_autocast_enabled(hidden.device.type)
    ):
        return args, kwargs
    hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def without_dropout(model: nn.Module) -> None:
    """Turns off all dropout of `model`, in any mode; its config stays unchanged."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _sight(model: Any, batch: Batch) -> dict[str, Any]:
    """Arguments for a trunk so that every token of a packed row sees only its own stream."""
    config = model.config.get_text_config()
    if config._attn_implementation == PATHS:
        return {"runs": runs(batch, model.dtype)}
    return {"attention_mask": attention_masks(config, batch, model.dtype)}


def attention_masks(config: Any, batch: Batch, dtype: torch.dtype) -> Any:
    """The `attention_mask` of a transformers trunk for packed rows: one mask, or one per type of layer.

    The window of a sliding layer counts positions in the stream, not indices in the row. ValueError for a type of
    layer that has no such mask (chunked or recurrent layers).
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return _mask(config, batch, dtype, window)
    unknown = sorted(set(kinds) - set(KNOWN_LAYERS))
    if unknown:
        raise ValueError(f"layers of type {unknown} cannot take packed rows, only {list(KNOWN_LAYERS)}")
    return {kind: _mask(config, batch, dtype, window if kind in WINDOWED else None) for kind in set(kinds)}


def _mask(config: Any, batch: Batch, dtype: torch.dtype, window: int | None) -> Any:
    """Block-sparse for flex attention; else additive [B, 1, T, T], which every other implementation accepts."""
    if config._attn_implementation == "flex_attention":
        return _block_mask(batch, window)
    index_T = torch.arange(batch.tokens_BT.shape[1], device=batch.tokens_BT.device)
    seen_BTT: Tensor = (index_T[:, None] >= index_T) & (index_T[:, None] <= batch.last_BT[:, None, :])
    if window is not None:
        distance_BTT = batch.positions_BT[:, :, None] - batch.positions_BT[:, None, :]
        seen_BTT = seen_BTT & distance_BTT.lt(window)
    mask_BTT = torch.zeros(seen_BTT.shape, dtype=dtype, device=seen_BTT.device).masked_fill_(
        ~seen_BTT, torch.finfo(dtype).min
    )
    return mask_BTT[:, None]


def _block_mask(batch: Batch, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    last_BT, positions_BT = batch.last_BT, batch.positions_BT
    rows, width = last_BT.shape
    reach = width if window is None else window

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = positions_BT[row, query] - positions_BT[row, key] < reach
        return (key <= query) & (query <= last_BT[row, key]) & near

    return create_block_mask(seen, rows, None, width, width, device=str(last_BT.device), _compile=last_BT.is_cuda)


def check_packable(policy: Policy, tolerance: float | None = None) -> None:
    """Compares `policy` with the model's own forward on a small random tree, and sets `policy.packable`.

    If only packed rows differ, the policy is used unpacked, with a warning: correct, but slower. ValueError if single
    streams differ as well: then this module does not support the head or the trunk. The tolerance is on log-probs in
    nats: 1e-4 in float32, 0.05 in half precision, unless given.
    """
    inner = policy.causal_lm
    config = inner.config.get_text_config()
    device = inner.get_input_embeddings().weight.device
    limit = tolerance or (1e-4 if inner.dtype == torch.float32 else 0.05)
    samples = _random_tree(config)
    policy.packable = True
    with torch.no_grad():
        expected = [policy.whole(torch.tensor(sample.token_ids, device=device)) for sample in samples]
        alone = _largest(policy, samples, expected, trees=False, device=device)
        if alone > limit:
            raise ValueError(
                f"log-probs of {type(inner).__name__} differ by {alone:.2g} from its own logits (limit {limit:g}): "
                f"its head or its "
                "trunk does something that the policy module does not know"
            )
        try:
            together, reason = _largest(policy, samples, expected, trees=True, device=device), "log-probs differ"
        except (
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # errors of a trunk that does not support the mask or positions
            together, reason = float("inf"), str(error)
    policy.packable = together <= limit
    if (
        not policy.packable and config._attn_implementation == PATHS
    ):  # a model that does not pass arguments on to the kernel
        inner.set_attn_implementation("sdpa")
        check_packable(policy, tolerance)
    elif not policy.packable:
        warnings.warn(
            f"{type(inner).__name__} is trained with one sample per row: {reason} ({together:.2g})", stacklevel=2
        )


def _random_tree(config: Any) -> list[Sample]:
    """A tree with two branches, one of which branches again, and an unrelated sample; longer than a short window."""
    window = getattr(config, "sliding_window", None) or 0
    room = getattr(config, "max_position_embeddings", None) or 64
    unit = max(2, min(12 + (window if window <= 256 else 0), room) // 4)
    draw = rng(0, "packable")
    a, b, c, d, e = ([draw.randrange(config.vocab_size) for _ in range(unit)] for _ in range(5))
    streams = [a + b + c, a + b + d, a + e, e + a + d]
    return [Sample(str(at), tuple(ids), (Utterance(1, len(ids)),)) for at, ids in enumerate(streams)]


def _largest(
    policy: Policy, samples: Sequence[Sample], expected: Sequence[Tensor], *, trees: bool, device: torch.device
) -> float:
    if trees:
        (micro,) = pack(samples, [[at] for at in range(len(samples))], Budget(10**9, 10**9))
    else:
        micro = MicroBatch(
            tuple((at,) for at in range(len(samples))), tuple(len(sample.token_ids) - 1 for sample in samples)
        )
    batch = collate(samples, micro, supervised(samples)).to(device)
    values = policy(batch)
    return float((values - torch.cat(list(expected))[batch.token_N]).abs().max())
