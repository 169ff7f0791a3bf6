"""Mixtures over the members of a payoff table: the Nash mixture of a zero-sum game, and alpha-rank.

`payoffs[i][j]` is the payoff of member i against member j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Payoffs = Sequence[Sequence[float]]


def nash(payoffs: Payoffs, gap: float = 1e-4, at_most: int = 20_000) -> list[float]:
    """The first player's maximin mixture [n] of a zero-sum game, to within `gap` points of its value.

    Regret matching+ with linear averaging, the players taking turns (Tammelin 2014, arXiv:1407.5042).
    """
    rows, columns = (
        [list(row) for row in payoffs],
        [[-each for each in column] for column in zip(*payoffs, strict=True)],
    )
    own, other = [1 / len(rows)] * len(rows), [1 / len(columns)] * len(columns)
    regret, regret_other = [0.0] * len(rows), [0.0] * len(columns)
    total, total_other = [0.0] * len(rows), [0.0] * len(columns)
    for step in range(1, at_most + 1):
        own, regret = _matched(regret, _paid(rows, other), own)
        other, regret_other = _matched(regret_other, _paid(columns, own), other)
        total = [sum_ + step * each for sum_, each in zip(total, own, strict=True)]
        total_other = [sum_ + step * each for sum_, each in zip(total_other, other, strict=True)]
        if step % 50 == 0:
            mixed, mixed_other = _shares(total), _shares(total_other)
            if max(_paid(rows, mixed_other)) + max(_paid(columns, mixed)) < gap:
                break
    return _shares(total)


def _paid(payoffs: Payoffs, mixture: Sequence[float]) -> list[float]:
    """The payoff of each row against a mixture of the columns."""
    return [sum(each * share for each, share in zip(row, mixture, strict=True)) for row in payoffs]


def _matched(
    regret: Sequence[float], paid: Sequence[float], mixture: Sequence[float]
) -> tuple[list[float], list[float]]:
    """(next mixture, positive regrets): the mixture is proportional to the regrets."""
    got = sum(each * share for each, share in zip(paid, mixture, strict=True))
    kept = [max(old + each - got, 0.0) for old, each in zip(regret, paid, strict=True)]
    return (_shares(kept) if sum(kept) > 0 else [1 / len(kept)] * len(kept)), kept


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [each / total for each in weights]


def alpha_rank(payoffs: Payoffs, alpha: float, population: int = 50) -> list[float]:
    """The stationary share [n] of each member in a population under rare mutations (alpha-rank, Omidshafiei et al.
    2019, arXiv:1903.01373: one population, selection intensity `alpha`, fixation probabilities of the whole population
    as in OpenSpiel's `compute(use_local_selection_model=False)`)."""
    members = range(len(payoffs))
    moves = [[-math.inf if i == j else _fixation(payoffs, i, j, alpha, population) for j in members] for i in members]
    return _stationary(moves)


def _fixation(payoffs: Payoffs, old: int, new: int, alpha: float, population: int) -> float:
    """Log of the probability that one mutant `new` takes over a population of `old`."""
    total, logs = 0.0, [0.0]
    for mutants in range(1, population):
        others = population - mutants
        fit_new = ((mutants - 1) * payoffs[new][new] + others * payoffs[new][old]) / (population - 1)
        fit_old = (mutants * payoffs[old][new] + (others - 1) * payoffs[old][old]) / (population - 1)
        total -= alpha * (fit_new - fit_old)
        logs.append(total)
    return -_log_sum(logs)


def _stationary(moves: Sequence[Sequence[float]]) -> list[float]:
    """The stationary distribution of a Markov chain with these transition rates, as logs: under strong selection the
    rates themselves are too small for a float. Computed without subtractions (Grassmann, Taksar and Heyman 1985)."""
    size, chain = len(moves), [list(row) for row in moves]
    for last in range(size - 1, 0, -1):
        leaving = _log_sum(chain[last][:last])
        for i in range(last):
            chain[i][last] -= leaving
            for j in range(last):
                if i != j:
                    chain[i][j] = _log_sum([chain[i][j], chain[i][last] + chain[last][j]])
    found = [0.0]
    for last in range(1, size):
        found.append(_log_sum([found[i] + chain[i][last] for i in range(last)]))
    top = max(found)
    return _shares([math.exp(each - top) for each in found])


def _log_sum(logs: Sequence[float]) -> float:
    """The log of the sum of exponentials."""
    top = max(logs)
    return top + math.log(sum(math.exp(each - top) for each in logs))
