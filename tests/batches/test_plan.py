"""The plan: batches as a pure function of samples and seed, shares of ranks, and the arithmetic of packing."""

import random

import pytest
from parley.batches.packing import Budget
from parley.batches.plan import _cut, dealt, efficiency, once, plan
from parley.data.sample import Sample, Utterance

BUDGET = Budget(row_tokens=64, micro_tokens=128)


def make(count: int, seed: int = 0, groups: int = 0) -> list[Sample]:
    draw = random.Random(seed)
    samples = []
    for number in range(count):
        length = draw.randint(8, 30)
        spans = tuple(Utterance(at, at + 2, weight=number + at / 100) for at in range(2, length - 2, 6))
        group = f"g{number % groups}" if groups and number % 2 else None
        samples.append(Sample(str(number), tuple(draw.randrange(50) for _ in range(length)), spans, group=group))
    return samples


def members(step) -> list[int]:
    return sorted(member for micro in step.micros for row in micro.rows for member in row)


@pytest.mark.parametrize("seed", range(20))
def test_each_epoch_has_each_sample_once_in_batches_of_like_size(seed):
    samples = make(random.Random(seed).randint(1, 60), seed)
    total, want = sum(len(each.utterances) for each in samples), random.Random(seed).randint(1, 40)
    steps = list(plan(samples, BUDGET, seed=seed, epochs=3, batch_utterances=want))
    per_epoch = -(-total // want)
    assert len(steps) <= 3 * per_epoch
    everything = sorted(member for step in steps for member in members(step))
    assert everything == sorted(list(range(len(samples))) * 3)
    largest = max(len(each.utterances) for each in samples)
    for step in steps:
        assert len(step.utterances) <= total / per_epoch + largest
        assert sorted(step.utterances, key=lambda u: u.weight) == sorted(
            (each for member in members(step) for each in samples[member].utterances), key=lambda u: u.weight
        )


def test_batches_hit_their_size_exactly_when_samples_have_one_utterance():
    samples = [Sample(str(n), (1, 2, 3), (Utterance(1, 3),)) for n in range(100)]
    steps = plan(samples, BUDGET, seed=0, epochs=1, batch_utterances=32)
    assert [len(step.utterances) for step in steps] == [25, 25, 25, 25]


def test_the_plan_is_a_function_of_the_seed():
    samples = make(40)
    one, two, other = (plan(samples, BUDGET, seed=seed, epochs=2, batch_utterances=8) for seed in (1, 1, 2))
    assert list(one) == list(two) and one[3] == list(one)[3] and one[1:3] == list(one)[1:3]
    assert list(one) != list(other)
    half = len(one) // 2
    assert list(map(members, one[:half])) != list(map(members, one[half:]))  # each epoch has its own order


def test_groups_stay_in_one_micro_batch_and_ranks_share_a_step_out():
    samples = make(60, groups=6)
    for step in plan(samples, BUDGET, seed=3, epochs=1, batch_utterances=40):
        home = {member: at for at, micro in enumerate(step.micros) for row in micro.rows for member in row}
        for group in {each.group for each in samples} - {None}:
            homes = {home[number] for number, each in enumerate(samples) if each.group == group and number in home}
            assert len(homes) <= 1
        shares = [micro for rank in range(3) for micro in step.micro(rank, 3)]
        assert sorted(shares, key=repr) == sorted(step.micros, key=repr)


def test_samples_without_utterances_are_left_out_and_all_of_them_is_an_error():
    empty = Sample("empty", (1, 2, 3), ())
    samples = [empty, *make(3)]
    assert 0 not in [
        member for step in plan(samples, BUDGET, seed=0, epochs=1, batch_utterances=4) for member in members(step)
    ]
    with pytest.raises(ValueError, match="nothing to learn from"):
        plan([empty], BUDGET, seed=0, epochs=1, batch_utterances=4)


def test_once_covers_every_sample():
    samples = make(50, groups=4)
    micros = once(samples, BUDGET, units=16)
    assert sorted(member for micro in micros for row in micro.rows for member in row) == list(range(50))


def test_efficiency_counts_by_hand():
    # one chat of three turns, and the same first turn continued otherwise
    samples = [
        Sample("a", tuple(range(10)), (Utterance(2, 4), Utterance(6, 10))),
        Sample("b", (0, 1, 2, 3, 44, 55), (Utterance(4, 6),)),
    ]
    packed = efficiency(once(samples, Budget(100, 100)), samples)
    assert packed.tokens_per_utterance == 3 + 9 + 5
    assert packed.tokens_per_sample == 9 + 5
    assert packed.tokens_packed == packed.tokens_padded == 9 + 1
    assert packed.padding == 0 and packed.micro_batches == 1 and packed.utterances == 3


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_ends_at_the_unit_border_that_is_nearest(seed):
    """A reference for the cut: each border lies within half a unit of an equal share."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 9) for _ in range(draw.randint(2, 40))]
    want = draw.randint(9, 30)
    batches = _cut([(at,) for at in range(len(sizes))], sizes, want)
    total, count, done, at = sum(sizes), -(-sum(sizes) // want), 0, 0
    ends = [0]
    for batch in batches:
        assert batch == tuple((number,) for number in range(at, at + len(batch)))
        at += len(batch)
        done += sum(sizes[number] for (number,) in batch)
        ends.append(done)
    shares = [total * border / count for border in range(count + 1)]
    for end in ends:
        assert min(abs(end - share) for share in shares) <= max(sizes) / 2
    assert at == len(sizes)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_filled_up_with_the_smallest_which_counts_for_nothing(world, equal):
    for count in range(8):
        micros = [f"micro {number}" for number in range(count)]  # the largest first
        shares = [dealt(micros, rank, world, equal) for rank in range(world)]
        assert sorted(micro for share in shares for micro, counts in share if counts) == micros
        assert {micro for share in shares for micro, counts in share if not counts} <= set(micros[-1:])
        lengths, own = [len(share) for share in shares], [len(micros[rank::world]) for rank in range(world)]
        assert lengths == ([max(own)] * world if equal else [max(each, 1) if count else 0 for each in own])
