"""A ledger of live tensors: the bytes of a rehearsed step by part, and their peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.policy import Policy

REHEARSED = ("weights", "gradients", "optimizer", "activations", "logits")


class Ledger(TorchDispatchMode):
    """Tracks the storage of every tensor created while it is active: live bytes by part, and their peak.

    `share` is the fraction of weights, gradients and optimiser states on one rank.
    """

    def __init__(self, config: Any, share: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary, self.width, self.share = config.vocab_size, config.hidden_size, share
        self.seen: dict[int, tuple[weakref.ref[Any], str, float]] = {}
        self.live: Counter[str] = Counter()
        self.peak: dict[str, float] = {}
        self.most: Counter[str] = Counter()  # peak of each part
        self.default = 1.0  # fraction for storage without a part yet
        self.keep: Any = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        copied = func is torch.ops.aten._to_copy.default and self._part(args[0]) == "weights"
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                self.mark(tensor, "weights" if copied else self._kind(tensor), self.default)
        return made

    def weights(self, policy: Policy) -> None:
        """Counts parameters and buffers, which existed before."""
        for each in [*policy.parameters(), *policy.buffers()]:
            self.mark(each, "weights", self.share, stored_bytes(each))

    def mark(self, tensor: Any, part: str, share: float | None = None, size: float | None = None) -> Any:
        """Counts the tensor's storage in `part` from now on; returns the tensor."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._forget(key)
        size = storage.nbytes() if size is None else size
        size *= (self.share if part in ("gradients", "optimizer") else 1.0) if share is None else share
        self.seen[key] = (weakref.ref(storage, self._dropped(key)), part, size)
        self.live[part] += size  # type: ignore[assignment]
        self.most[part] = max(self.most[part], self.live[part])
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak = dict(self.live)
        return tensor

    def peak_since(self) -> dict[str, float]:
        """The parts at the peak since the last call."""
        peak, self.peak = self.peak, dict(self.live)
        return {part: float(peak.get(part, 0.0)) for part in REHEARSED}

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Counts everything created inside as sharded over the ranks."""
        self.default = self.share
        yield
        self.default = 1.0

    def _kind(self, tensor: Tensor) -> str:
        shape = tensor.shape
        last = len(shape) and shape[-1] == self.vocabulary and tuple(shape) != (self.width, self.vocabulary)
        return "logits" if last else "activations"

    def _part(self, tensor: Any) -> str:
        return self.seen.get(tensor.untyped_storage()._cdata, (None, "", 0.0))[1]

    def _dropped(self, key: int) -> Callable[[Any], None]:
        return lambda _: self._forget(key)

    def _forget(self, key: int) -> None:
        if key in self.seen:
            _, part, size = self.seen.pop(key)
            self.live[part] -= size  # type: ignore[assignment]


def stored_bytes(parameter: Tensor) -> float:
    """Bytes of a parameter as it is stored."""
    return getattr(parameter, "stored_bytes", None) or float(parameter.numel() * parameter.element_size())
