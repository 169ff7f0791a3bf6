"""Attention along paths gives what the explicit mask gives, forward and backward, and computes only what is seen."""

import random
from itertools import pairwise

import pytest
import torch
from parley.batches.packing import Batch, Budget, collate, pack, supervised
from parley.data.sample import Sample, Utterance
from parley.models.attention import path_attention, runs


def batch_of(seed: int) -> Batch:
    """Rows of random trees over few token ids, streams of one token and padding among them."""
    draw = random.Random(seed)
    streams: list[list[int]] = []
    for _ in range(draw.randint(2, 12)):
        parent = draw.choice(streams) if streams and draw.random() < 0.6 else []
        streams.append(parent[: draw.randint(0, len(parent))] + [draw.randrange(4) for _ in range(draw.randint(2, 9))])
    samples = [Sample(str(n), tuple(ids), (Utterance(1, len(ids)),)) for n, ids in enumerate(streams)]
    rows, multiple = draw.choice([12, 30, 10**6]), draw.choice([1, 16])
    (micro,) = pack(samples, [[n] for n in range(len(samples))], Budget(rows, 10**9, apart=draw.random() < 0.3))[:1]
    return collate(samples, micro, supervised(samples), multiple)


def seen(batch: Batch) -> torch.Tensor:
    """[B, T, T] by the rule of the packing module, one entry at a time."""
    rows, width = batch.last_BT.shape
    return torch.tensor(
        [[[k <= q <= batch.last_BT[row, k] for k in range(width)] for q in range(width)] for row in range(rows)]
    )


def dense(query, key, value, seen_BTT, scaling):
    """The slow reference: every product, what is not seen left out, in float64."""
    shared = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen_BTT[:, None], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_masked_attention_forward_and_backward(seed):
    batch = batch_of(seed)
    if batch.causal:
        pytest.skip("a batch of single streams has no runs")
    rows, width = batch.tokens_BT.shape
    heads, groups = random.Random(seed).choice([(4, 2), (2, 2), (4, 1)])
    draw = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(rows, count, width, 8, generator=draw, dtype=torch.float64) for count in (heads, groups, groups)
    ]
    ours, theirs = ([each.clone().requires_grad_() for each in tensors] for _ in range(2))
    found, _ = path_attention(torch.nn.Identity(), *ours, None, scaling=0.3, runs=runs(batch))
    expected = dense(*theirs, seen(batch), 0.3)
    assert found.shape == (rows, width, heads, 8)
    assert (found - expected).abs().max() < 1e-12
    weight = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert all((one.grad - other.grad).abs().max() < 1e-12 for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("packed", [True, False])
def test_on_a_cpu_it_is_done_in_float32_whatever_autocast_says(packed):
    batch = next(batch for batch in map(batch_of, range(30)) if not batch.causal)
    rows, width = batch.tokens_BT.shape
    draw = torch.Generator().manual_seed(0)
    halves = [torch.randn(rows, 2, width, 8, generator=draw).bfloat16() for _ in range(3)]
    paths = runs(batch) if packed else None
    module = torch.nn.Identity()
    module.is_causal, module.num_key_value_groups = True, 1
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = path_attention(module, *halves, None, scaling=0.3, runs=paths)
    expected, _ = path_attention(module, *(each.float() for each in halves), None, scaling=0.3, runs=paths)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("seed", range(30))
def test_runs_cover_every_token_once_and_name_exactly_what_it_sees(seed):
    batch = batch_of(seed)
    if batch.causal:
        pytest.skip("a batch of single streams has no runs")
    made, seen_BTT = runs(batch), seen(batch)
    width = batch.last_BT.shape[1]
    starts = [0]
    for length in made.lengths:
        starts.append(starts[-1] + length)
    assert starts[-1] == batch.last_BT.numel() and len(made.masks) == len(made.widths) == len(made.lengths)
    keys = (torch.arange(starts[-1]) if made.seen_K is None else made.seen_K).split(made.widths)
    for (start, end), run_K, mask in zip(pairwise(starts), keys, made.masks, strict=True):
        for query in range(start, end):
            row, place = divmod(query, width)
            allowed = run_K[mask[query - start] == 0] if mask is not None else run_K[: query - start + 1]
            assert allowed.tolist() == [row * width + at for at in seen_BTT[row, place].nonzero()[:, 0].tolist()]


def test_a_trunk_and_its_branches_cost_their_paths():
    trunk, branches = list(range(40)), [[100 + n] * 6 for n in range(5)]
    samples = [Sample(str(n), (*trunk, *branch), (Utterance(40, 46),)) for n, branch in enumerate(branches)]
    (micro,) = pack(samples, [range(5)], Budget(10**6, 10**6))
    made = runs(collate(samples, micro, supervised(samples)))
    assert made.lengths == (45, 5, 5, 5, 5) and made.widths == (45, 45, 45, 45, 45)
    assert made.masks[0] is None and all(mask is not None and mask.shape == (5, 45) for mask in made.masks[1:])
