"""A prefix cache: keys and values of the beginnings of streams, in blocks at fixed positions.

Each block is computed for its stream alone, after the blocks before it. So its content depends only on the tokens up to
its end, not on the batch or the order of requests. Close choices are settled from it, and streams with the same prefix
share it.

Legend: q tokens of a call, H heads, D size of a head, V vocabulary.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .slots import Stash, size

BLOCK = 32  # tokens: few, so that settling a choice reads little; enough that a prompt takes few forwards
OFTEN = 3  # requests for a prefix before it is cached
MOST_SEEN = 100_000  # most prefixes counted at a time

Key = tuple[int, tuple[int, ...]]
"""The number of the block before (0: none), and a block's own tokens."""


@dataclass(frozen=True, slots=True)
class Block:
    number: int
    stash: Stash


class Prefixes:
    """The blocks of one policy, at most `room` bytes of them, evicted least recently used first (leaves first)."""

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.model, self.room = model, room
        self.bytes = 0
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self._seen: Counter[Key] = Counter()
        self._numbers = count(1)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [1, V] of the token after `ids`, independent of the rows being decoded."""
        whole = (len(ids) - 1) // BLOCK * BLOCK  # tokens in full blocks; at least one token is left to read
        blocks = self._walk(ids[:whole], lambda _: True)
        logits_V, _ = self._read([block.stash for block in blocks], ids[whole:])
        return logits_V

    def shared(self, ids: Sequence[int]) -> list[Stash]:
        """The blocks at the beginning of `ids` that are cached or have been requested `OFTEN` times; never all of
        `ids`."""
        if len(self._seen) > MOST_SEEN:
            self._seen.clear()
        return [block.stash for block in self._walk(ids[: (len(ids) - 1) // BLOCK * BLOCK], self._often)]

    def clear(self) -> None:
        """Drops all blocks, because the weights have changed."""
        self._blocks.clear()
        self._seen.clear()
        self.bytes = 0

    def _often(self, key: Key) -> bool:
        self._seen[key] += 1
        return self.room > 0 and self._seen[key] >= OFTEN

    def _walk(self, ids: Sequence[int], wanted: Callable[[Key], bool]) -> list[Block]:
        """The blocks of `ids` from the first on. A missing block is computed if it is wanted; otherwise the list
        ends."""
        found: dict[Key, Block] = {}
        number = 0
        for start in range(0, len(ids), BLOCK):
            key = number, tuple(ids[start : start + BLOCK])
            if (block := self._blocks.get(key)) is None:
                if not wanted(key):
                    break
                block = self._new([each.stash for each in found.values()], key)
            found[key] = block
            number = block.number
        self._used(list(found))
        return list(found.values())

    def _new(self, before: Sequence[Stash], key: Key) -> Block:
        block = self._blocks[key] = Block(next(self._numbers), self._read(before, key[1])[1])
        self.bytes += size(block.stash)
        return block

    def _used(self, path: Sequence[Key]) -> None:
        """Marks blocks as used, earlier blocks last: later ones cannot be found without them, so they are evicted
        first."""
        for key in reversed(path):
            self._blocks.move_to_end(key)
        while self.bytes > self.room:
            self.bytes -= size(self._blocks.popitem(last=False)[1].stash)

    def _read(self, before: Sequence[Stash], ids: Sequence[int]) -> tuple[Tensor, Stash]:
        """(logits [1, V] after `ids`, their keys and values); `before` holds the blocks before them."""
        cache = DynamicCache()
        for layer in range(len(before[0]) // 2 if before else 0):
            keys, values = (torch.cat([each[2 * layer + i] for each in before], dim=1)[None] for i in (0, 1))
            cache.update(keys, values, layer)
        ids_1q = torch.tensor([ids], device=self.model.device)
        out = self.model(input_ids=ids_1q, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: Any = cache.layers
        fresh = tuple(states[0, :, -len(ids) :].clone() for layer in layers for states in (layer.keys, layer.values))
        logits_V: Tensor = out.logits[:, -1].float()
        return logits_V, fresh
