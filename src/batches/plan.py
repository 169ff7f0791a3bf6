"""Plans all global batches of a round, as a pure function of samples and seed; the index is the optimiser step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..data.sample import Sample, Utterance
from ..system.seeds import rng
from .packing import Budget, MicroBatch, check, computed, pack

Unit = tuple[int, ...]  # sample numbers that are never split: one group, or one sample without a group


@dataclass(frozen=True, slots=True)
class Step:
    """One global batch (one optimiser step): its micro-batches, and its utterances on all ranks."""

    micros: tuple[MicroBatch, ...]
    utterances: tuple[Utterance, ...]

    def micro(self, rank: int, world: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of one rank, dealt largest first, so that ranks get similar amounts."""
        return self.micros[rank::world]


def dealt(micros: Sequence[MicroBatch], rank: int, world: int, equal: bool) -> list[tuple[MicroBatch, bool]]:
    """The micro-batches of one rank, each with whether it counts.

    With `equal` (FSDP) every rank gets as many micro-batches as rank 0, otherwise at least one. Missing ones repeat the
    smallest, with loss weight 0.
    """
    if not micros:
        return []
    mine = [(micro, True) for micro in micros[rank::world]]
    wanted = len(micros[::world]) if equal else 1
    return mine + [(micros[-1], False)] * (wanted - len(mine))


@dataclass(frozen=True, slots=True)
class Plan(Sequence[Step]):
    """The optimiser steps. `plan[step]` is packed on access, the same each time."""

    samples: Sequence[Sample]
    batches: tuple[tuple[Unit, ...], ...]
    budget: Budget

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step):  # type: ignore[no-untyped-def]  # a step, or a slice of them
        if isinstance(step, slice):
            return [self[at] for at in range(*step.indices(len(self)))]
        units = self.batches[step]
        members = [member for unit in units for member in unit]
        utterances = tuple(each for member in members for each in self.samples[member].utterances)
        return Step(tuple(pack(self.samples, units, self.budget)), utterances)

    def __iter__(self) -> Iterator[Step]:
        return (self[at] for at in range(len(self)))


def plan(samples: Sequence[Sample], budget: Budget, *, seed: int, epochs: int, batch_utterances: int) -> Plan:
    """`epochs` passes over `samples`, each in its own order, cut into global batches of about `batch_utterances`.

    An epoch's batches have about equal size, so that none is a remainder; a group is never split. Samples without
    utterances are left out. ValueError if nothing is left, or for an invalid span.
    """
    check(samples)
    units = _units(samples)
    if not units:
        raise ValueError(f"none of the {len(samples)} samples has an utterance: there is nothing to learn from")
    batches: list[tuple[Unit, ...]] = []
    for epoch in range(epochs):
        order = list(units)
        rng(seed, "order", epoch).shuffle(order)
        batches += _cut(
            order, [sum(len(samples[member].utterances) for member in unit) for unit in order], batch_utterances
        )
    return Plan(samples, tuple(batches), budget)


def once(samples: Sequence[Sample], budget: Budget, units: int = 256) -> list[MicroBatch]:
    """Packs every sample once, neighbours in token order together, for a pass without optimiser steps."""
    order = sorted(_units(samples), key=lambda unit: samples[unit[0]].token_ids)
    return [micro for at in range(0, len(order), units) for micro in pack(samples, order[at : at + units], budget)]


def _units(samples: Sequence[Sample]) -> list[Unit]:
    groups: dict[tuple[str, str | int], list[int]] = {}
    for number, sample in enumerate(samples):
        if sample.utterances:
            groups.setdefault(("sample", number) if sample.group is None else ("group", sample.group), []).append(
                number
            )
    return [tuple(unit) for unit in groups.values()]


def _cut(order: Sequence[Unit], sizes: Sequence[int], batch_utterances: int) -> list[tuple[Unit, ...]]:
    """Consecutive batches of equal size; a unit goes into the batch that contains its middle."""
    total = sum(sizes)
    count = -(-total // batch_utterances)
    batches: list[list[Unit]] = [[] for _ in range(count)]
    done = 0
    for unit, size in zip(order, sizes, strict=True):
        batches[(2 * done + size) * count // (2 * total)].append(unit)
        done += size
    return [tuple(batch) for batch in batches if batch]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Tokens of one pass under each packing: one row per utterance, one row per sample, in trees, with padding."""

    samples: int
    utterances: int
    tokens_per_utterance: int
    tokens_per_sample: int
    tokens_packed: int
    tokens_padded: int
    micro_batches: int

    @property
    def padding(self) -> float:
        """Share of the computed tokens that are padding."""
        return 1.0 - self.tokens_packed / self.tokens_padded


def efficiency(micros: Sequence[MicroBatch], samples: Sequence[Sample]) -> Efficiency:
    """Compares `micros` with one row per utterance and one row per sample."""
    members = [member for micro in micros for row in micro.rows for member in row]
    utterances = [each for member in members for each in samples[member].utterances]
    return Efficiency(
        samples=len(members),
        utterances=len(utterances),
        tokens_per_utterance=sum(each.end - 1 for each in utterances),
        tokens_per_sample=sum(len(computed(samples[member])) for member in members),
        tokens_packed=sum(sum(micro.sizes) for micro in micros),
        tokens_padded=sum(micro.padded for micro in micros),
        micro_batches=len(micros),
    )
