"""Rows that hold trees: layout, budgets, and the property that every token sees exactly its own stream."""

import random
from dataclasses import replace

import numpy as np
import pytest
from parley.batches.packing import Batch, Budget, MicroBatch, check, collate, computed, pack, supervised
from parley.data.sample import Sample, Utterance

ONE = Budget(row_tokens=10**6, micro_tokens=10**9)


def sample(ids, *spans, group=None, name="s"):
    return Sample(name, tuple(ids), tuple(Utterance(*span) for span in spans), group=group)


def alone(samples):
    return [(number,) for number in range(len(samples))]


def random_samples(seed: int) -> list[Sample]:
    """Streams over few token ids that often extend or branch off an earlier one; some in groups."""
    draw = random.Random(seed)
    streams: list[list[int]] = []
    for _ in range(draw.randint(1, 9)):
        parent = draw.choice(streams) if streams and draw.random() < 0.7 else []
        kept = parent[: draw.randint(0, len(parent))]
        streams.append(kept + [draw.randrange(3) for _ in range(draw.randint(2, 9))])
    samples = []
    for number, ids in enumerate(streams):
        starts = sorted(draw.sample(range(1, len(ids)), draw.randint(1, min(3, len(ids) - 1))))
        spans = [
            (at, draw.randint(at + 1, max(at + 1, until)))
            for at, until in zip(starts, [*starts[1:], len(ids)], strict=True)
        ]
        samples.append(sample(ids, *spans, group=draw.choice([None, "a", "b"]), name=str(number)))
    return samples


def units_of(samples: list[Sample]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for number, each in enumerate(samples):
        groups.setdefault(each.group or number, []).append(number)
    return list(groups.values())


def sees(batch: Batch, row: int, query: int) -> list[int]:
    """Indices that the token at `query` attends to, by the rule of the module."""
    last = batch.last_BT[row].tolist()
    return [key for key in range(len(last)) if key <= query <= last[key]]


def test_a_trunk_stands_once_and_its_branches_after_it():
    samples = [sample([1, 2, 5, 6, 7], (3, 5)), sample([1, 2, 3, 4], (2, 4)), sample([8, 9], (1, 2))]
    (micro,) = pack(samples, alone(samples), ONE)
    batch = collate(samples, micro, supervised(samples))
    # streams computed: [1 2 5 6], [1 2 3], [8]; sorted: 1 2 3 | 5 6 | 8
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 5, 6, 8]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert batch.last_BT.tolist() == [[4, 4, 2, 4, 4, 5]]
    order = [sample for row in micro.rows for sample in row]
    by_sample = dict(zip([n for n in order for _ in range(2 if n < 2 else 1)], range(5), strict=True))
    assert sorted(by_sample) == [0, 1, 2]
    found = sorted(zip(batch.token_N.tolist(), batch.source_N.tolist(), batch.target_N.tolist(), strict=True))
    assert found == [
        (0, 3, 6),
        (1, 4, 7),
        (2, 1, 3),
        (3, 2, 4),
        (4, 5, 9),
    ]  # the branch starts 6 <- 5; 3 <- the trunk's end


def test_rows_with_one_stream_are_plain_causal_and_padding_continues_them():
    samples = [sample([1, 2, 3, 4], (1, 4)), sample([5, 6], (1, 2))]
    batch = collate(samples, MicroBatch(((0,), (1,)), (3, 1)), supervised(samples), multiple=8)
    assert batch.causal
    assert batch.tokens_BT.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch.last_BT.tolist() == [[2, 2, 2], [2, 2, 2]]
    assert batch.source_N.tolist() == [0, 1, 2, 3] and batch.target_N.tolist() == [2, 3, 4, 6]


def test_padding_sees_only_itself_and_widths_are_rounded_up():
    samples = [sample([1, 2, 3], (1, 3)), sample([4, 5, 6], (1, 3))]
    batch = collate(samples, MicroBatch(((0, 1),), (4,)), supervised(samples), multiple=8)
    assert batch.tokens_BT.shape == (1, 8)
    for query in range(4, 8):
        assert sees(batch, 0, query) == [query]
    for query in range(4):
        assert max(sees(batch, 0, query)) < 4


@pytest.mark.parametrize("seed", range(40))
def test_every_supervised_token_is_predicted_from_exactly_its_own_prefix(seed):
    samples = random_samples(seed)
    rows, micros = random.Random(seed).choice([4, 12, 10**6]), random.Random(seed + 1).choice([6, 30, 10**6])
    budget = Budget(rows, micros, trees=seed % 4 != 0, apart=seed % 3 == 0)
    before, found = supervised(samples), []
    for micro in pack(samples, units_of(samples), budget):
        batch = collate(samples, micro, before)
        width = batch.tokens_BT.shape[1]
        assert width == max(micro.sizes) and batch.tokens_BT.numel() == micro.padded
        for number, source, target, owner in zip(
            batch.token_N, batch.source_N, batch.target_N, batch.utterance_N, strict=True
        ):
            member = int(np.searchsorted(before, int(number), side="right")) - 1
            places = [at for each in samples[member].utterances for at in range(each.start, each.end)]
            place = places[int(number) - before[member]]
            row, query = divmod(int(source), width)
            keys = sees(batch, row, query)
            assert batch.tokens_BT[row, keys].tolist() == list(samples[member].token_ids[:place])
            assert batch.positions_BT[row, keys].tolist() == list(range(place))
            assert int(target) == samples[member].token_ids[place]
            assert batch.utterances[int(owner)] in samples[member].utterances
            found.append(int(number))
    assert sorted(found) == list(range(before[-1]))


@pytest.mark.parametrize("seed", range(40))
def test_a_distinct_prefix_stands_once_in_a_row(seed):
    samples = random_samples(seed)
    (micro,) = pack(samples, units_of(samples), ONE)
    prefixes = {computed(each)[:length] for each in samples for length in range(1, len(computed(each)) + 1)}
    assert sum(micro.sizes) == len(prefixes)


@pytest.mark.parametrize("seed", range(40))
def test_samples_that_are_kept_apart_share_nothing(seed):
    samples = random_samples(seed)
    (micro,) = pack(samples, units_of(samples), replace(ONE, apart=True))
    batch = collate(samples, micro, supervised(samples))
    assert sum(micro.sizes) == sum(len(computed(each)) for each in samples)
    if not batch.causal:
        assert (batch.positions_BT == 0).sum() == len(samples) == len({*batch.last_BT.flatten().tolist()})


@pytest.mark.parametrize("seed", range(40))
def test_budgets_hold_and_groups_stay_together(seed):
    samples, draw = random_samples(seed), random.Random(seed)
    units, budget = units_of(samples), Budget(draw.choice([6, 12, 24]), draw.choice([24, 48]))
    micros = pack(samples, units, budget)
    members = sorted(member for micro in micros for row in micro.rows for member in row)
    assert members == list(range(len(samples)))
    home = {member: at for at, micro in enumerate(micros) for row in micro.rows for member in row}
    assert all(len({home[member] for member in unit}) == 1 for unit in units)
    longest_alone = max(len(computed(each)) for each in samples)
    for micro in micros:
        assert max(micro.sizes) <= max(budget.row_tokens, longest_alone)
        owners = {next(at for at, unit in enumerate(units) if member in unit) for row in micro.rows for member in row}
        assert micro.padded <= budget.micro_tokens or len(owners) == 1
    assert micros == pack(samples, units, budget)


def test_rows_of_a_step_are_made_of_like_length():
    draw = random.Random(0)
    samples = [sample([draw.randrange(1000) for _ in range(draw.randint(40, 80))], (30, 40)) for _ in range(64)]
    samples = [sample(each.token_ids, (1, len(each.token_ids))) for each in samples]
    micros = pack(samples, alone(samples), Budget(256, 10**6))
    packed, padded = sum(sum(micro.sizes) for micro in micros), sum(micro.padded for micro in micros)
    assert (padded - packed) / padded < 0.04
    assert all(size <= 256 for micro in micros for size in micro.sizes)


def test_long_and_short_rows_do_not_share_a_micro_batch():
    samples = [sample(range(100), (1, 100)), *(sample([200 + n] * 10, (1, 10)) for n in range(3))]
    micros = pack(samples, alone(samples), Budget(9, 10**6))
    assert [micro.sizes for micro in micros] == [(99,), (9, 9, 9)]


def test_rows_are_kept_short_where_attention_is_dear_and_long_where_they_share_much():
    draw = random.Random(0)
    rules = [draw.randrange(1000) for _ in range(200)]
    chats = [[draw.randrange(1000) for _ in range(60)] for _ in range(32)]
    for streams, shortest, longest in ((chats, 59, 130), ([rules + chat for chat in chats], 500, 1100)):
        samples = [sample(ids, (len(ids) - 9, len(ids))) for ids in streams]
        for budget in (Budget(2048, 4096, attention_tokens=512), Budget(10**6, 4096, attention_tokens=512)):
            micros = pack(samples, alone(samples), budget)
            assert all(shortest <= size <= longest for micro in micros for size in micro.sizes)


def test_without_trees_every_sample_has_its_own_row():
    samples = [sample([1, 2, 3], (1, 3)), sample([1, 2, 3, 4], (1, 4), group="g"), sample([1, 2, 5], (1, 3), group="g")]
    micros = pack(samples, [[0], [1, 2]], Budget(100, 100, trees=False))
    assert sorted(row for micro in micros for row in micro.rows) == [(0,), (1,), (2,)]


def test_only_the_samples_of_its_units_are_looked_at():
    class Watched(list):
        def __getitem__(self, at):
            looked.add(at)
            return super().__getitem__(at)

        def __iter__(self):
            raise AssertionError("all samples are looked at, in every step anew")

    looked: set[int] = set()
    (micro,) = pack(Watched(random_samples(3)), [(0,), (2,)], ONE)
    assert looked == {0, 2} and sorted(member for row in micro.rows for member in row) == [0, 2]


def test_nothing_after_the_last_supervised_token_is_computed():
    assert computed(sample([1, 2, 3, 4, 5, 6], (1, 2), (2, 4))) == (1, 2, 3)


@pytest.mark.parametrize("span", [(0, 2), (2, 2), (3, 2), (2, 5)])
def test_a_span_that_cannot_be_supervised_is_refused(span):
    with pytest.raises(ValueError, match=r"sample 's' of 4 tokens: span"):
        check([sample([1, 2, 3, 4], span)])
