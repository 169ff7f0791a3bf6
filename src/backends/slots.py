"""Keys and values of many streams, one row each, that start at column 0 and grow at their own pace.

Because a token's column is its position, rows of any length share a forward pass without left padding, rows are moved
by copying, and a stashed stream continues where it stopped.

Legend: n rows of a call, q tokens of each, T columns, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

STEP = 64  # columns added at a time

Stash: TypeAlias = tuple[Tensor, ...]
"""A stream's keys and values [H, n, D], layer by layer."""


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values [rows, H, T, D] of the rows that decode."""

    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots
        self.live: list[Tensor] = []  # keys, values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.slots.rows, key_states.shape[1], self.slots.columns)
        self.live = [
            states.new_zeros(*shape, states.shape[3]) for states in (key_states, value_states)
        ]  # masked values must be finite
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.slots.place
        for buffer, states in zip(self.live, (key_states, value_states), strict=True):
            states_N = states.transpose(1, 2).flatten(0, 1)  # [n * q, H, D]
            buffer[place.row_N, :, place.column_N] = states_N if place.source_N is None else states_N[place.source_N]
        keys, values = (buffer[place.start : place.end, :, : place.width] for buffer in self.live)
        return keys, values

    def resize(self) -> None:
        self.live = [_grown(buffer, self.slots.rows, self.slots.columns) for buffer in self.live]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.place.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _grown(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return functional.pad(buffer, (0, 0, 0, columns - buffer.shape[2], 0, 0, 0, rows - buffer.shape[0]))


def _copy(buffer: Tensor, rows: Sequence[int], to: Sequence[int], lengths: Sequence[int]) -> None:
    """Copies rows: one by one on a CPU, where bytes cost; all at once, as wide as the longest, on a GPU, where calls
    cost."""
    if buffer.device.type == "cpu":
        for i, j, n in zip(rows, to, lengths, strict=True):
            buffer[j, :, :n] = buffer[i, :, :n]
    else:
        row_N, to_N = torch.tensor(rows, device=buffer.device), torch.tensor(to, device=buffer.device)
        buffer[to_N, :, : max(lengths)] = buffer[row_N, :, : max(lengths)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the next call writes: rows and columns of its N real tokens, their index among all n * q (None: all of
    them), and the rows and columns that it then reads."""

    row_N: Tensor
    column_N: Tensor
    source_N: Tensor | None
    start: int
    end: int
    width: int


class Slots(Cache):
    """The cache for a model's `forward`.

    A call uses adjacent rows start..end, so that attention reads a view. `aim` sets where its tokens go, and returns
    positions and mask. Rows and columns are added when needed.
    """

    place: _Place

    def __init__(self, config: PretrainedConfig) -> None:
        config = config.get_text_config(decoder=True)
        self.own = [SlotLayer(self) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=[*self.own])
        self.rows, self.columns = 0, 0
        self.window: int = getattr(config, "sliding_window", None) or 0
        self._kinds = _kinds(config)

    def reserve(self, rows: int, columns: int) -> None:
        """Makes room for at least this many rows and columns, keeping the stored ones."""
        if rows > self.rows or columns > self.columns:
            self.rows = self.rows if rows <= self.rows else max(rows, 2 * self.rows)
            if columns > self.columns:
                self.columns = -(-max(columns, 3 * self.columns // 2) // STEP) * STEP
            for layer in self.own:
                layer.resize()

    def free(self) -> None:
        """Frees all keys and values. (Layers and slots refer to each other, so otherwise gigabytes would wait for the
        garbage collector.)"""
        for layer in self.own:
            layer.live = []

    def move(self, rows: Sequence[int], to: Sequence[int], lengths: Sequence[int]) -> None:
        """Copies rows of these lengths to other rows."""
        for layer in self.own:
            for buffer in layer.live:
                _copy(buffer, rows, to, lengths)

    def stash(self, row: int, length: int) -> Stash:
        """Copies the first `length` tokens of a row, so that a waiting stream takes no more memory than it needs."""
        return tuple(buffer[row, :, :length].clone() for layer in self.own for buffer in layer.live)

    def fetch(self, stash: Stash, row: int, length: int, at: int) -> None:
        """Copies the first `length` tokens of a stash to a row, from column `at` on."""
        pairs = zip(stash[::2], stash[1::2], strict=True)
        for layer, pair in zip(self.own, pairs, strict=False):  # the last layers may share others' keys and values
            if not layer.is_initialized:  # before the first forward
                layer.lazy_initialization(pair[0][None], pair[1][None])
            for buffer, states in zip(layer.live, pair, strict=True):
                buffer[row, :, at : at + length] = states[:, :length]

    def aim(
        self, start: int, length_n: Tensor, q: int, fresh_n: Tensor | None, width: int, dtype: torch.dtype
    ) -> tuple[Tensor, Any]:
        """Prepares the next forward for rows start..start+n, which already hold `length_n` tokens each.

        Of its q tokens row i adds the last `fresh_n[i]` (None: q is 1 for all rows). `width` is the longest row
        afterwards. Returns position_ids [n, q] and the mask [n, 1, q, T] (a dict of masks for models with several kinds
        of layers).
        """
        n, device = length_n.shape[0], length_n.device
        rows_n = torch.arange(start, start + n, device=device)
        if fresh_n is None:
            position_nq, source_N = length_n[:, None], None
            row_N, column_N = rows_n, length_n
        else:
            position_nq = torch.arange(q, device=device) - (q - fresh_n[:, None]) + length_n[:, None]
            real_nq = torch.arange(q, device=device) >= (q - fresh_n[:, None])
            source_N = real_nq.flatten().nonzero()[:, 0]
            row_N, column_N = rows_n[:, None].expand(n, q)[real_nq], position_nq[real_nq]
            position_nq = position_nq.clamp(min=0)
        self.place = _Place(row_N, column_N, source_N, start, start + n, width)
        masks = {kind: self._mask(kind, position_nq, width, dtype) for kind in self._kinds}
        return position_nq, masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, kind: str, position_nq: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        column_T = torch.arange(width, device=position_nq.device)
        hidden = column_T > position_nq[..., None]
        if kind == "sliding_attention":
            hidden |= column_T <= position_nq[..., None] - self.window
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )[:, None]


def _kinds(config: PretrainedConfig) -> tuple[str, ...]:
    """The kinds of attention layers of a model; ValueError for a kind without plain keys and values."""
    from transformers import AutoModelForCausalLM

    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]))
    unknown = [str(kind) for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    models: Any = AutoModelForCausalLM._model_mapping
    if not unknown and type(config) in models and models[type(config)]._is_stateful:
        unknown = ["recurrence"]
    if unknown:
        raise ValueError(
            f"{config.model_type} has layers of kind {', '.join(unknown)}, which this backend cannot decode: use "
            f"backend=vllm"
        )
    return tuple(kinds)


def size(stash: Stash) -> int:
    """The bytes of a stash."""
    return sum(each.nbytes for each in stash)


class Kept:
    """Streams between two turns: the keys and values of the newest ones, up to `room` bytes, with their ids."""

    def __init__(self, room: int) -> None:
        self.room, self.bytes = room, 0
        self.streams: dict[str, tuple[Stash, tuple[int, ...]]] = {}  # oldest first

    def keep(self, stream: str, stash: Stash, ids: tuple[int, ...]) -> None:
        """Keeps a stream; drops the oldest ones if there is no room."""
        self.take(stream)
        self.streams[stream] = stash, ids
        self.bytes += size(stash)
        while self.bytes > self.room:
            self.take(next(iter(self.streams)))

    def take(self, stream: str) -> tuple[Stash, tuple[int, ...]] | None:
        """Removes and returns a stream; None if it is not kept."""
        kept = self.streams.pop(stream, None)
        if kept is not None:
            self.bytes -= size(kept[0])
        return kept


def check_decodable(config: PretrainedConfig) -> None:
    """ValueError if the config shows that the decode loop cannot play the model."""
    _kinds(config.get_text_config(decoder=True))
