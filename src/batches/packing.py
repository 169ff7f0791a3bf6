"""Packs samples as prefix trees: a row holds every distinct token prefix once, so nothing is computed twice.

A row lists the tree of its sorted streams in preorder: a trunk once, then its branches, each starting at the position
after the trunk. One integer per token then says the whole attention mask: `last`, the index of the token's last
descendant. The query at i sees the key at j exactly when j <= i <= last[j].

Legend: B rows of a micro-batch, T tokens of the longest row, N supervised tokens, U utterances.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..data.sample import Sample, Utterance, common

Tokens = tuple[int, ...]
Streams = Mapping[int, Tokens]  # the tokens to compute for each sample, by its number
LARGER, PART = 1.15, 48  # ratio between the row limits that packing tries, and number of trees it tries them on
LAUNCH = 64  # fixed cost of a micro-batch, in tokens


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits by which samples become micro-batches.

    A row takes up to `row_tokens`, a micro-batch `micro_tokens` (rows times the longest row, padding included); a
    longer sample has its own. Without `trees` every sample has its own row, for models that cannot be packed.
    `attention_tokens` is the row length at which attention costs as much as all else; rows are kept shorter if that is
    cheaper (inf for kernels that skip masked blocks). With `apart` samples in a row share no prefix, because dropout
    would put the same noise on it for all of them. Rows with trees are padded to a multiple of `multiple` tokens, for
    kernels that are compiled per length (see `collate`).
    """

    row_tokens: int
    micro_tokens: int
    trees: bool = True
    attention_tokens: float = math.inf
    apart: bool = False
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of sample numbers, and the number of tokens in each row; `apart` as in the budget."""

    rows: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    apart: bool = False

    @property
    def padded(self) -> int:
        """Tokens of the computed micro-batch, padding included."""
        return len(self.sizes) * max(self.sizes)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch as tensors.

    tokens_BT    token ids, 0 in the padding; positions_BT: distance from the root of the token's tree
    last_BT      index in the row of the token's last descendant; a padding token has only itself
    source_N     flat index into B*T of the token before the supervised one (its hidden state predicts it)
    target_N     the supervised token id; utterance_N: its utterance; token_N: its number among all supervised tokens of
                 the planned samples (the index of its reference log-prob)
    utterances   [U] in the order of utterance_N; streams: the number of each one's sample in the micro-batch [U]
    causal       every row is one stream, so that a plain causal mask suffices (padding continues the stream)
    """

    tokens_BT: Tensor
    positions_BT: Tensor
    last_BT: Tensor
    source_N: Tensor
    target_N: Tensor
    utterance_N: Tensor
    token_N: Tensor
    utterances: tuple[Utterance, ...]
    streams: tuple[int, ...]
    causal: bool

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        names = ("tokens_BT", "positions_BT", "last_BT", "source_N", "target_N", "utterance_N", "token_N")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def computed(sample: Sample) -> Tokens:
    """The tokens whose hidden states are needed: all before the last supervised one."""
    return sample.token_ids[: max((each.end for each in sample.utterances), default=1) - 1]


def check(samples: Iterable[Sample]) -> None:
    """ValueError for a span that is empty, exceeds its sample, or starts at token 0, which nothing predicts."""
    for sample in samples:
        for each in sample.utterances:
            if not 1 <= each.start < each.end <= len(sample.token_ids):
                raise ValueError(
                    f"sample {sample.id!r} of {len(sample.token_ids)} tokens: span [{each.start}, {each.end}) must be "
                    f"non-empty, "
                    "lie inside the sample, and start at token 1 or later (token 0 has no context that predicts it)"
                )


def pack(samples: Sequence[Sample], units: Iterable[Sequence[int]], budget: Budget) -> list[MicroBatch]:
    """Micro-batches that hold every sample of `units` once, longest rows first. A unit is never split over
    micro-batches."""
    whole = [tuple(unit) for unit in units]
    streams = {member: computed(samples[member]) for unit in whole for member in unit}
    if budget.apart:
        streams = {member: (~member, *stream[1:]) for member, stream in streams.items()}  # no two begin alike
    bundles = [sorted(each, key=lambda row: -row.size) for each in _bundles(streams, whole, budget)]
    bundles.sort(key=lambda rows: -rows[0].size)
    micros = [[row for rows in part for row in rows] for part in _cut(bundles, budget.micro_tokens)]
    return [
        MicroBatch(tuple(tuple(row.members) for row in rows), tuple(row.size for row in rows), budget.apart)
        for rows in micros
    ]


def _cut(bundles: list[list[_Row]], micro_tokens: int) -> list[list[list[_Row]]]:
    """Groups consecutive bundles, longest rows first, into micro-batches of minimal cost: padded tokens plus
    launches."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # for the first n bundles: cost, and start of the last micro-batch
    for end in range(1, len(bundles) + 1):
        rows, choices = 0, list[tuple[float, int]]()
        for first in range(end - 1, -1, -1):
            rows += len(bundles[first])
            padded = rows * bundles[first][0].size
            if choices and padded > micro_tokens:
                break
            choices.append((best[first][0] + padded + LAUNCH, first))
        best.append(min(choices))
    cuts = [len(bundles)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    return [bundles[first:end] for end, first in pairwise(cuts)][::-1]


class _Row:
    """A row under construction: its streams in order, their sample numbers, the tokens of its tree."""

    def __init__(self) -> None:
        self.streams: list[Tokens] = []
        self.members: list[int] = []
        self.size = 0

    def add(self, member: int, stream: Tokens) -> None:
        """Adds a stream. Its longest common prefix with the row is that with a neighbour in sorted order."""
        self.size += len(stream) - _shared(stream, self.streams)
        insort(self.streams, stream)
        self.members.append(member)

    def cost(self, other: _Row) -> int:
        """Tokens that the streams of `other` would add to this row."""
        if len(other.streams) == 1:
            return other.size - _shared(other.streams[0], self.streams)
        both = _Row()
        both.streams, both.size = list(self.streams), self.size
        for member, stream in zip(other.members, other.streams, strict=True):
            both.add(member, stream)
        return both.size - self.size


def _shared(stream: Tokens, ordered: list[Tokens]) -> int:
    at = bisect_left(ordered, stream)
    return max((common(stream, other) for other in ordered[max(at - 1, 0) : at + 1]), default=0)


def _bundles(streams: Streams, units: Iterable[Sequence[int]], budget: Budget) -> list[list[_Row]]:
    """Rows that must share a micro-batch: those of a unit longer than a row; else a single row."""
    trees = [_tree(streams, unit) for unit in units]
    if not budget.trees:
        return [[_tree(streams, [member]) for member in tree.members] for tree in trees]
    long = [tree for tree in trees if tree.size > budget.row_tokens]
    short = [tree for tree in trees if tree.size <= budget.row_tokens]
    alone = [_level([_tree(streams, [member]) for member in tree.members], streams, budget) for tree in long]
    return alone + [[row] for row in _level(short, streams, budget)]


def _tree(streams: Streams, unit: Sequence[int]) -> _Row:
    row = _Row()
    for member in unit:
        row.add(member, streams[member])
    return row


def _level(trees: list[_Row], streams: Streams, budget: Budget) -> list[_Row]:
    """The cheapest rows among the results of best fit under several row limits up to the budget.

    Best fit leaves its last row short, so that a somewhat smaller limit often gives rows of like length and less
    padding; long rows share more prefixes and pay more attention. Of many trees a part decides the limit for all.
    """
    least = max((tree.size for tree in trees), default=1)
    part = trees[:PART]
    floor = _tree(streams, [member for tree in part for member in tree.members]).size  # in one row, with nothing twice
    best: tuple[float, list[_Row], int] = (math.inf, [], least)
    for limit in _limits(least, max(min(budget.row_tokens, floor), least)):
        if floor * (1.0 + limit / budget.attention_tokens) >= best[0]:
            break
        rows = _fill(part, streams, limit)
        if (cost := _cost(rows, budget)) < best[0]:
            best = (cost, rows, limit)
    return best[1] if len(part) == len(trees) else _fill(trees, streams, best[2])


def _limits(least: int, most: int) -> Iterator[int]:
    """Row limits to try, largest first: if a row costs only its tokens, one row with everything is best."""
    yield most
    limit = least
    while limit < most:
        yield limit
        limit = math.ceil(limit * LARGER)


def _cost(rows: list[_Row], budget: Budget) -> float:
    """The cost of `rows` in tokens: padded to the longest, plus attention."""
    width = max((row.size for row in rows), default=0)
    return len(rows) * width * (1.0 + width / budget.attention_tokens)


def _fill(trees: list[_Row], streams: Streams, row_tokens: int) -> list[_Row]:
    """Best fit, largest tree first: each goes into the row where it adds the fewest tokens, ties to the fullest row."""
    most = _most_shared([stream for tree in trees for stream in tree.streams])
    rows: list[_Row] = []
    for tree in sorted(trees, key=lambda tree: (-tree.size, tree.streams)):
        least = tree.size - sum(most[stream] for stream in tree.streams)  # lower bound of what it adds to any row
        fits: list[tuple[int, int, int]] = []
        for number, row in enumerate(rows):
            if row.size + least <= row_tokens and row.size + (cost := row.cost(tree)) <= row_tokens:
                fits.append((cost, -row.size, number))
        if not fits:
            rows.append(_Row())
        row = rows[min(fits)[2] if fits else -1]
        for member in tree.members:
            row.add(member, streams[member])
    return rows


def _most_shared(streams: list[Tokens]) -> dict[Tokens, int]:
    """Length of the longest prefix shared with any other stream, per stream."""
    ordered = sorted(streams)
    shared = [0, *map(common, ordered, ordered[1:]), 0]
    most: dict[Tokens, int] = {}
    for at, stream in enumerate(ordered):
        most[stream] = max(shared[at], shared[at + 1], most.get(stream, 0))
    return most


def supervised(samples: Sequence[Sample]) -> list[int]:
    """Number of supervised tokens before each sample, and in total: [len(samples) + 1]."""
    counts = [sum(each.end - each.start for each in sample.utterances) for sample in samples]
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def collate(samples: Sequence[Sample], micro: MicroBatch, before: Sequence[int], multiple: int = 1) -> Batch:
    """The tensors of `micro`. `before` is the result of `supervised(samples)`. Rows that need an explicit mask are
    padded to a multiple of `multiple` tokens, so that kernels are compiled for few shapes."""
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
    streams: list[int] = []
    for at, members in enumerate(micro.rows):
        paths = _lay(tokens[at], positions[at], None if causal else last[at], samples, members, micro.apart)
        for member, path in zip(members, paths, strict=True):
            ids, first = samples[member].token_ids, before[member]
            stream = streams[-1] + 1 if streams else 0
            for each in samples[member].utterances:
                sources.append(at * width + path[each.start - 1 : each.end - 1])
                targets.append(np.asarray(ids[each.start : each.end]))
                numbers.append(np.arange(first, first := first + each.end - each.start))
                utterances.append(each)
                streams.append(stream)
    return Batch(
        tokens_BT=torch.from_numpy(tokens),
        positions_BT=torch.from_numpy(positions),
        last_BT=torch.from_numpy(last),
        source_N=torch.from_numpy(np.concatenate(sources)),
        target_N=torch.from_numpy(np.concatenate(targets)),
        utterance_N=torch.from_numpy(np.repeat(np.arange(len(utterances)), [len(target) for target in targets])),
        token_N=torch.from_numpy(np.concatenate(numbers)),
        utterances=tuple(utterances),
        streams=tuple(streams),
        causal=causal,
    )


def _lay(
    tokens_T: np.ndarray, positions_T: np.ndarray, last_T: np.ndarray | None,
    samples: Sequence[Sample], members: Sequence[int], apart: bool,
) -> list[np.ndarray]:  # fmt: skip
    """Writes one row; returns for each member the row index of each of its tokens."""
    streams = {member: computed(samples[member]) for member in members}
    paths: dict[int, np.ndarray] = {}
    previous: Tokens = ()
    path, end = np.empty(0, np.int64), 0
    for member in sorted(members, key=streams.__getitem__):
        stream = streams[member]
        shared = 0 if apart else common(previous, stream)
        start, end = end, end + len(stream) - shared
        path = np.concatenate([path[:shared], np.arange(start, end)])
        tokens_T[start:end] = stream[shared:]
        positions_T[start:end] = np.arange(shared, len(stream))
        if last_T is not None:
            last_T[path] = end - 1  # every token on the path has a descendant at the row's current end
        paths[member], previous = path, stream
    return [paths[member] for member in members]
