"""Samples as trees: in a row every distinct token prefix stands once, and nothing is computed twice.

A row's streams are sorted, so that it lists a tree in preorder: a trunk once, its branches after it, each starting again
at the position after its trunk. One integer per token then says the whole attention mask: `last`, the index of the
token's last descendant. The query at i sees the key at j exactly when j <= i <= last[j].

Legend: B rows of a micro-batch, T tokens of the longest row, N supervised tokens, U utterances.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .sample import Sample, Utterance

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """How samples become micro-batches.

    A row takes `row_tokens`, a micro-batch `micro_tokens` (rows times the longest row, padding included); what is longer
    stands alone. Without `trees` every sample has a row of its own, for models that cannot be packed.
    """

    row_tokens: int
    micro_tokens: int
    trees: bool = True


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of sample numbers, and the tokens that stand in each row."""

    rows: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Tokens of the micro-batch as it is computed, padding included."""
        return len(self.sizes) * max(self.sizes)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch as tensors.

    tokens_BT    token ids, 0 in the padding; positions_BT: distance from the root of the token's tree
    last_BT      index in the row of the token's last descendant; a padding token has only itself
    source_N     flat index into B*T of the token before the supervised one, whose hidden state predicts it
    target_N     the supervised token id; utterance_N: its utterance; token_N: its number among all supervised tokens
                 of the samples that were planned (where its reference log-prob stands)
    utterances   [U] in the order of utterance_N
    causal       every row is one stream, so that a plain causal mask says the same (padding continues the stream)
    """

    tokens_BT: Tensor
    positions_BT: Tensor
    last_BT: Tensor
    source_N: Tensor
    target_N: Tensor
    utterance_N: Tensor
    token_N: Tensor
    utterances: tuple[Utterance, ...]
    causal: bool

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        names = ("tokens_BT", "positions_BT", "last_BT", "source_N", "target_N", "utterance_N", "token_N")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def computed(sample: Sample) -> Tokens:
    """The tokens that must be computed: all before the last supervised one. Nothing that follows can matter."""
    return sample.token_ids[: max((each.end for each in sample.utterances), default=1) - 1]


def check(samples: Iterable[Sample]) -> None:
    """ValueError for a span that is empty, leaves its sample, or starts at a token that nothing predicts."""
    for sample in samples:
        for each in sample.utterances:
            if not 1 <= each.start < each.end <= len(sample.token_ids):
                raise ValueError(
                    f"sample {sample.id!r} of {len(sample.token_ids)} tokens: span [{each.start}, {each.end}) must be non-empty, "
                    "lie inside the sample, and start at token 1 or later (token 0 has no context that predicts it)"
                )


def pack(samples: Sequence[Sample], units: Iterable[Sequence[int]], budget: Budget) -> list[MicroBatch]:
    """Micro-batches that hold every sample of `units` once, largest first. A unit is never split over two of them."""
    bundles = _bundles([computed(sample) for sample in samples], units, budget)
    bundles.sort(key=lambda bundle: -max(row.size for row in bundle))
    micros: list[list[_Row]] = []
    for bundle in bundles:
        width = max(row.size for row in bundle)
        if not micros or (len(micros[-1]) + len(bundle)) * max(width, micros[-1][0].size) > budget.micro_tokens:
            micros.append([])
        micros[-1] += sorted(bundle, key=lambda row: -row.size)
    return [MicroBatch(tuple(tuple(row.members) for row in rows), tuple(row.size for row in rows)) for rows in micros]


class _Row:
    """A row that is being filled: its streams in order, their sample numbers, the tokens of its tree."""

    def __init__(self) -> None:
        self.streams: list[Tokens] = []
        self.members: list[int] = []
        self.size = 0

    def cost(self, stream: Tokens) -> int:
        """Tokens that `stream` would add. Its longest common prefix is with a neighbour in sorted order."""
        at = bisect_left(self.streams, stream)
        return len(stream) - max((common(stream, other) for other in self.streams[max(at - 1, 0) : at + 1]), default=0)

    def add(self, member: int, stream: Tokens) -> None:
        self.size += self.cost(stream)
        insort(self.streams, stream)
        self.members.append(member)


def _bundles(streams: list[Tokens], units: Iterable[Sequence[int]], budget: Budget) -> list[list[_Row]]:
    """Rows that must share a micro-batch, for each unit or for several units that share a row."""
    trees: list[_Row] = []
    bundles: list[list[_Row]] = []
    for unit in units:
        if not budget.trees or (len(unit) > 1 and _tree(streams, unit).size > budget.row_tokens):
            bundles.append(_fill([[member] for member in unit], streams, budget))
        else:
            trees.append(_tree(streams, unit))
    return bundles + [[row] for row in _fill([row.members for row in trees], streams, budget)]


def _tree(streams: list[Tokens], unit: Sequence[int]) -> _Row:
    row = _Row()
    for member in unit:
        row.add(member, streams[member])
    return row


def _fill(units: list[list[int]], streams: list[Tokens], budget: Budget) -> list[_Row]:
    """Best fit, longest unit first: into the row where it adds the fewest tokens, among those the fullest."""
    rows: list[_Row] = []
    for unit in sorted(units, key=lambda unit: (-sum(len(streams[member]) for member in unit), streams[unit[0]])):
        best, best_key = None, (0, 0)
        for row in rows if budget.trees else ():
            cost = sum(row.cost(streams[member]) for member in unit) if len(unit) == 1 else _joint(row, unit, streams)
            key = (cost, -row.size)
            if row.size + cost <= budget.row_tokens and (best is None or key < best_key):
                best, best_key = row, key
        if best is None:
            rows.append(best := _Row())
        for member in unit:
            best.add(member, streams[member])
    return rows


def _joint(row: _Row, unit: list[int], streams: list[Tokens]) -> int:
    """Tokens that a unit of several samples would add to `row`."""
    copy = _Row()
    copy.streams, copy.size = list(row.streams), row.size
    for member in unit:
        copy.add(member, streams[member])
    return copy.size - row.size


def common(one: Tokens, other: Tokens) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])


def supervised(samples: Sequence[Sample]) -> list[int]:
    """Number of supervised tokens before each sample, and of all of them: [len(samples) + 1]."""
    counts = [sum(each.end - each.start for each in sample.utterances) for sample in samples]
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def collate(samples: Sequence[Sample], micro: MicroBatch, before: Sequence[int], multiple: int = 1) -> Batch:
    """The tensors of `micro`. `before` is what `supervised(samples)` gives; rows that need an explicit mask are padded
    to a multiple of `multiple` tokens, which spares a compiled attention kernel new shapes."""
    causal = all(len(row) == 1 for row in micro.rows)
    width = max(micro.sizes)
    width = width if causal else -(-width // multiple) * multiple
    shape = (len(micro.rows), width)
    tokens, positions, last = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.empty(shape, np.int64)
    positions[:], last[:] = (np.arange(width), width - 1) if causal else (0, np.arange(width))
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    utterances: list[Utterance] = []
    for at, members in enumerate(micro.rows):
        paths = _lay(tokens[at], positions[at], None if causal else last[at], samples, members)
        for member, path in zip(members, paths):
            ids, first = samples[member].token_ids, before[member]
            for each in samples[member].utterances:
                sources.append(at * width + path[each.start - 1 : each.end - 1])
                targets.append(np.asarray(ids[each.start : each.end]))
                numbers.append(np.arange(first, first := first + each.end - each.start))
                utterances.append(each)
    return Batch(
        tokens_BT=torch.from_numpy(tokens),
        positions_BT=torch.from_numpy(positions),
        last_BT=torch.from_numpy(last),
        source_N=torch.from_numpy(np.concatenate(sources)),
        target_N=torch.from_numpy(np.concatenate(targets)),
        utterance_N=torch.from_numpy(np.repeat(np.arange(len(utterances)), [len(target) for target in targets])),
        token_N=torch.from_numpy(np.concatenate(numbers)),
        utterances=tuple(utterances),
        causal=causal,
    )


def _lay(
    tokens_T: np.ndarray, positions_T: np.ndarray, last_T: np.ndarray | None, samples: Sequence[Sample], members: Sequence[int]
) -> list[np.ndarray]:
    """Writes one row; returns for each member the row index of each of its tokens."""
    streams = {member: computed(samples[member]) for member in members}
    paths: dict[int, np.ndarray] = {}
    previous: Tokens = ()
    path, end = np.empty(0, np.int64), 0
    for member in sorted(members, key=streams.__getitem__):
        stream = streams[member]
        shared = common(previous, stream)
        start, end = end, end + len(stream) - shared
        path = np.concatenate([path[:shared], np.arange(start, end)])
        tokens_T[start:end] = stream[shared:]
        positions_T[start:end] = np.arange(shared, len(stream))
        if last_T is not None:
            last_T[path] = end - 1  # every token on the path has a descendant at the row's present end
        paths[member], previous = path, stream
    return [paths[member] for member in members]
