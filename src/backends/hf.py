"""The transformers backend: any number of snapshots in one process, each with its own pool of rows (`pool.py`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ..models.bases import Bases, Weights
from ..models.folders import architecture, reading
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.player import Completion, Prompt
from ..system.bounds import Count
from .pool import Pool
from .reply import check_update
from .slots import check_decodable


class HFBackend:
    """Answers prompts with `token_ids` from any number of loaded snapshots, each with its own pool; adapters of one
    base share its weights.

    A reply to a prompt with a JSON schema is constrained to it if llguidance allows (see `guide`). It then has no
    log-probs, because the choice was not the policy's own, and is never trained on.

    max_batch  rows that decode together, per policy
    keep_gib   GiB, per policy, for the keys and values of streams between two turns; streams that do not fit are read
               again at their next turn, and 0 keeps none. A further eighth holds shared prefixes
    settle     difference of two scores below which the choice is settled by a forward of the stream alone; used in
               float32 only, 0 turns it off

    `read`, `sampled` and `settled` count prompt tokens read, tokens sampled, and choices settled. ValueError for a
    `max_batch` or `keep_gib` out of range.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        max_batch: Count = 256,
        settle: float = 1e-4,
        keep_gib: float = 4.0,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch {max_batch} must be at least 1")
        if keep_gib < 0:
            raise ValueError(f"keep_gib {keep_gib} must be at least 0")
        self.device, self.dtype, self.max_batch = device, dtype, max_batch
        self.settle = settle if dtype == "float32" else 0.0
        self.keep_bytes = int(keep_gib * 2**30)
        self._bases = Bases(dtype, device)
        self._pools: dict[str, Pool] = {}
        self._turn: deque[str] = deque()

    @property
    def read(self) -> int:
        """Prompt tokens that were read (prefill), without those kept from earlier turns."""
        return sum(pool.read for pool in self._pools.values())

    @property
    def sampled(self) -> int:
        """Tokens sampled so far."""
        return sum(pool.sampled for pool in self._pools.values())

    @property
    def settled(self) -> int:
        """Choices settled by a forward of the stream alone."""
        return sum(pool.settled for pool in self._pools.values())

    @property
    def busy(self) -> bool:
        """Whether any pool has open prompts."""
        return any(pool.busy for pool in self._pools.values())

    @staticmethod
    def check(folder: str | Path) -> None:
        """Checks a model folder's config.json; builds nothing. InputError if this backend cannot play the model."""
        with reading(folder):
            check_decodable(architecture(folder))

    def load(self, snapshot: Snapshot) -> None:
        """Reads a snapshot into memory, unless its version is already loaded."""
        if snapshot.version in self._pools:
            return
        folder = snapshot.base or snapshot.path
        self.check(folder)
        model, switch = self._bases.load(snapshot)
        with reading(folder):
            self._pools[snapshot.version] = Pool(
                model, switch, Renderer.load(folder), snapshot.version,
                max_batch=self.max_batch, keep_bytes=self.keep_bytes, settle=self.settle,
            )  # fmt: skip
        self._turn.append(snapshot.version)

    def update(self, old: str, new: str, weights: Weights) -> None:
        """Replaces the weights of the version `old` by weights in training (see `Bases.update`), and renames it `new`.

        ValueError while prompts of `old` are open, if `old` is not loaded or `new` is taken, or for weights of another
        model.
        """
        check_update(self._pools, old, new, old in self._pools and self._pools[old].busy)
        self._bases.update(old, new, weights)
        pool = self._pools[new] = self._pools.pop(old)
        pool.renew(new)
        self._turn[self._turn.index(old)] = new

    def unload(self, version: str) -> None:
        """Frees a snapshot and drops its open prompts. Does nothing if it is not loaded."""
        if (pool := self._pools.pop(version, None)) is not None:
            pool.slots.free()
            self._turn.remove(version)
            self._bases.unload(version)

    def underway(self) -> dict[str, int]:
        """Stream -> tokens sampled so far, for the replies being decoded."""
        return {stream: count for pool in self._pools.values() for stream, count in pool.underway()}

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Queues prompts. ValueError for a prompt that is not rendered or names a policy that is not loaded, and for a
        schema that cannot be compiled."""
        for prompt in prompts:
            self._pool(prompt).submit(prompt)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """One decode step (and the prefill of waiting prompts) of the next policy that has work. `wait_s` (seconds) is
        unused: the step itself is the wait."""
        for _ in range(len(self._turn)):
            self._turn.rotate(-1)
            pool = self._pools[self._turn[-1]]
            if pool.busy:
                return pool.step()
        return []

    def cancel(self, ids: Sequence[str]) -> None:
        """Drops open prompts by id."""
        for pool in self._pools.values():
            pool.cancel(frozenset(ids))

    def forget(self, streams: Sequence[str]) -> None:
        """Frees the keys and values of these streams, whose matches are over."""
        for pool in self._pools.values():
            for stream in streams:
                pool.kept.take(stream)

    def close(self) -> None:
        """Frees every snapshot."""
        for version in list(self._pools):
            self.unload(version)

    def _pool(self, prompt: Prompt) -> Pool:
        version = prompt.policy or (self._turn[0] if len(self._turn) == 1 else "")
        if version not in self._pools:
            loaded = ", ".join(self._pools) or "none"
            raise ValueError(
                f"prompt {prompt.id} asks policy {version!r}, loaded are {loaded}: call load() with its snapshot first"
            )
        return self._pools[version]
