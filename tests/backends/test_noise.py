"""Counter-based Gumbel noise: the right distribution, independent along every axis, the same in every batch."""

import math

import pytest
import torch
from parley.backends.noise import gumbel

EULER = 0.5772156649015329


def noise(seeds, positions, vocab):
    return gumbel(torch.tensor(seeds), torch.tensor(positions), vocab)


def slow(seed, position, token):
    """SplitMix64 on Python's integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    start = mix(mix((seed + golden) & mask) + (position + 1) * golden & mask)
    bits = mix(start + (token + 1) * golden & mask)
    return -math.log(-math.log(((bits >> 12) + 0.5) * 2.0**-52))


def test_equals_the_slow_reference():
    for seed in (0, 1, 12345, 2**62 + 7, 2**63 - 1):
        for position in (0, 1, 500):
            row = noise([seed], [position], 50)[0]
            assert [float(x) for x in row] == pytest.approx(
                [slow(seed, position, token) for token in range(50)], rel=1e-12
            )


def test_moments():
    """A standard Gumbel has mean 0.5772 and variance pi^2 / 6."""
    x = gumbel(torch.arange(2000), torch.zeros(2000, dtype=torch.long), 500)
    assert torch.isfinite(x).all()
    assert float(x.mean()) == pytest.approx(EULER, abs=5 * 1.2825 / 1000)
    assert float(x.var()) == pytest.approx(math.pi**2 / 6, rel=0.01)


@pytest.mark.parametrize("axis", ["seed", "position"])
def test_argmax_draws_from_the_softmax(axis):
    """Chi-square of 60,000 draws over 12 tokens against the softmax, along seeds and along positions of one reply."""
    logits = torch.linspace(-2.5, 1.5, 12, dtype=torch.float64)
    n = 60_000
    many, one = torch.arange(n), torch.full((n,), 77)
    x = gumbel(many, one, 12) if axis == "seed" else gumbel(one, many, 12)
    counts = torch.bincount((logits + x).argmax(dim=1), minlength=12).double()
    expected = logits.softmax(0) * n
    assert float(((counts - expected) ** 2 / expected).sum()) < 31.3  # 99.9 % point of chi-square with 11 degrees


@pytest.mark.parametrize("shift", ["seed", "position", "token", "both"])
def test_neighbours_are_uncorrelated(shift):
    """Replies with neighbouring seeds, steps or tokens share nothing (|r| below 5 standard errors)."""
    seeds, positions = torch.arange(300).repeat_interleave(20), torch.arange(20).repeat(300)
    x = gumbel(seeds, positions, 101)
    other = gumbel(seeds + (shift in ("seed", "both")), positions + (shift in ("position", "both")), 101)
    a, b = (x[:, :-1], x[:, 1:]) if shift == "token" else (x, other)
    r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    assert abs(float(r)) < 5 / math.sqrt(a.numel())


def test_does_not_depend_on_the_batch_or_the_vocabulary():
    seeds, positions = torch.randint(0, 2**62, (40,)), torch.randint(0, 900, (40,))
    whole = gumbel(seeds, positions, 300)
    for i in (0, 7, 39):
        assert torch.equal(gumbel(seeds[i : i + 1], positions[i : i + 1], 300)[0], whole[i])
        assert torch.equal(gumbel(seeds[i : i + 1], positions[i : i + 1], 64)[0], whole[i, :64])


def test_leaves_its_arguments_alone():
    seeds, positions = torch.tensor([5, 6]), torch.tensor([0, 1])
    gumbel(seeds, positions, 8)
    assert seeds.tolist() == [5, 6] and positions.tolist() == [0, 1]
