"""Conformance tests for objectives: check any loss against the contract of `parley.objectives.base`.

    from parley.objectives import conformance
    conformance.check(MyLoss())                  # raises ConformanceError, which names the check that failed
    conformance.check(MyPairLoss(), pairs=True)  # for a loss over preference pairs

    @pytest.mark.parametrize("name", conformance.CHECKS)     # or each check as a test of its own
    def test_contract(name): conformance.CHECKS[name](MyLoss(), seeds=range(10))

The batches are drawn at random in float64: utterances of one to five tokens, with rewards, weights, kinds and every
column that the objective names. `Row`, `drawn`, `cut` and `run` make tests of your own against a slow reference.

Legend: N supervised tokens of a micro-batch, U utterances of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch
from torch import Tensor

from ..data.sample import Utterance
from ..system.conformance import ConformanceError, need
from .base import Columns, Objective

KNOWN = ("sampler", "old", "reference", "entropy")  # token columns that every run has; a credit may define others
CLOSE = 1e-9  # tolerance between two ways to compute the same float64 figure, relative to its size or to 1


@dataclass(frozen=True)
class Row:
    """One utterance of L tokens.

    logp       log-probs [L] under the policy; `ref`: under the old policy
    reference  [L] under the fixed model; `sampler`: as recorded; None for the values of `ref`
    entropy    [L] in nats; None for 1 nat at each token
    numbers    columns of the utterance that a credit defines; `tokens`: those of its tokens, each [L]
    The rest is as in `parley.data.sample.Utterance`.
    """

    logp: tuple[float, ...]
    ref: tuple[float, ...]
    reward: float = 1.0
    weight: float = 1.0
    kind: str = "act"
    pair: int | None = None
    side: int = 0
    reference: tuple[float, ...] | None = None
    sampler: tuple[float, ...] | None = None
    entropy: tuple[float, ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def utterance(self) -> Utterance:
        """The row as the objective's `totals` receives it."""
        end = 3 + len(self.logp)
        return Utterance(3, end, self.reward, self.weight, self.kind, self.pair, self.side, self.numbers)


def tensors(rows: Sequence[Row], names: Iterable[str] = KNOWN) -> tuple[Tensor, Columns]:
    """(logprob [N], columns) of a micro-batch in float64, with the token columns `names` and all that a credit defines.

    `logprob_N` and `entropy_N` take gradients. Pairs are numbered within the micro-batch, as the learner numbers them.
    """

    def column_N(of: Callable[[Row], Sequence[float]]) -> Tensor:
        return torch.tensor([value for row in rows for value in of(row)], dtype=torch.float64)

    known: dict[str, Callable[[Row], Sequence[float]]] = {
        "sampler": lambda row: row.sampler or row.ref,
        "old": lambda row: row.ref,
        "reference": lambda row: row.reference or row.ref,
        "entropy": lambda row: row.entropy or (1.0,) * len(row.logp),
    }
    made = {f"{name}_N": column_N(known[name]) for name in names if name in known}
    if "entropy_N" in made:
        made["entropy_N"].requires_grad_()
    pairs = {pair: index for index, pair in enumerate(dict.fromkeys(row.pair for row in rows if row.pair is not None))}
    own = {name: torch.tensor([row.numbers[name] for row in rows], dtype=torch.float64) for name in rows[0].numbers}
    own |= {name: column_N(lambda row, name=name: row.tokens[name]) for name in rows[0].tokens}  # type: ignore[misc]
    columns = Columns(
        utterance_N=torch.tensor([index for index, row in enumerate(rows) for _ in row.logp]),
        reward_U=torch.tensor([row.reward for row in rows], dtype=torch.float64),
        weight_U=torch.tensor([row.weight for row in rows], dtype=torch.float64),
        sft_U=torch.tensor([row.kind == "sft" for row in rows]),
        pair_U=torch.tensor([-1 if row.pair is None else pairs[row.pair] for row in rows]),
        side_U=torch.tensor([float(row.side) for row in rows], dtype=torch.float64),
        more=own,
        **made,
    )
    return column_N(lambda row: row.logp).requires_grad_(), columns


def run(
    objective: Objective, micros: Sequence[Sequence[Row]], names: Iterable[str] = KNOWN
) -> tuple[float, dict[str, float], list[float]]:
    """A global batch in micro-batches: (loss, metrics, gradient of each token's log-prob), as the learner adds them."""
    totals = objective.totals([row.utterance for micro in micros for row in micro])
    loss, metrics, gradients = 0.0, dict[str, float](), list[float]()
    for micro in micros:
        logprob_N, columns = tensors(micro, names)
        part, figures = objective(logprob_N, columns, totals)
        gradients += torch.autograd.grad(part, logprob_N)[0].tolist()
        loss += part.item()
        metrics = {name: metrics.get(name, 0.0) + value.item() for name, value in figures.items()}
    return loss, metrics, gradients


def drawn(seed: int, pairs: bool = False, names: Iterable[str] = (), tokens: Collection[str] = ()) -> list[Row]:
    """A random global batch: 4 to 13 utterances, or 2 to 6 `pairs`, some of which have two chosen replies.

    `names` are columns that a credit defines: one number per utterance, or per token for names in `tokens`.
    """
    draw = Random(seed)

    def near(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(value + draw.gauss(0, 0.25) for value in values)

    def row(kind: str = "act", pair: int | None = None, side: int = 0) -> Row:
        logp = tuple(min(draw.gauss(-1.2, 0.6), -0.01) for _ in range(draw.randint(1, 5)))
        return Row(
            logp, near(logp), draw.gauss(0.2, 0.4), draw.uniform(0.3, 3.0), kind, pair, side, near(logp), near(logp),
            tuple(draw.uniform(0.1, 3.0) for _ in logp),
            {name: draw.gauss(0, 1) for name in names if name not in tokens},
            {name: near([0.0] * len(logp)) for name in names if name in tokens},
        )  # fmt: skip

    if not pairs:
        return [row(kind=draw.choice(["act", "act", "sft"])) for _ in range(draw.randint(4, 13))]
    sides = [(900 + 7 * pair, side) for pair in range(draw.randint(2, 6)) for side in (1, 1, -1)[draw.randint(0, 1) :]]
    return [row(pair=pair, side=side) for pair, side in sides]


def cut(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    """`rows` in up to four random micro-batches, pairs kept whole; one more utterance and one more micro-batch are
    padding (weight 0)."""
    draw = Random(seed)
    units: dict[object, list[Row]] = {}
    for index, row in enumerate(rows):
        units.setdefault(("row", index) if row.pair is None else row.pair, []).append(row)
    micros: list[list[Row]] = [[] for _ in range(4)]
    for unit in units.values():
        draw.choice(micros).extend(unit)
    micros = [micro for micro in micros if micro]
    micros[0] = [*micros[0], replace(rows[0], weight=0.0, pair=None)]
    return [*micros, [replace(row, weight=0.0) for row in rows[:2]]]


# --- the checks --------------------------------------------------------------------------------------------------


def check(
    objective: Objective,
    pairs: bool = False,
    seeds: Iterable[int] = range(10),
    tokens: Collection[str] = (),
    skip: Collection[str] = (),
) -> None:
    """Runs all of `CHECKS` except those in `skip`; raises ConformanceError for the first that fails.

    `pairs`: the loss takes preference pairs. `tokens` names the credit's columns that hold one number per token. Skip
    `differences` for a loss that holds a factor constant on purpose (a stopped gradient, a clipped ratio).
    """
    for name, test in CHECKS.items():
        if name not in skip:
            test(objective, pairs, seeds, tokens)


def _batch(objective: Objective, pairs: bool, seed: int, tokens: Collection[str]) -> list[Row]:
    return drawn(seed, pairs, [name for name in objective.columns if name not in KNOWN], tokens)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(1.0, abs(one), abs(other))


def columns_are_named(
    objective: Objective, pairs: bool = False, seeds: Iterable[int] = range(10), tokens: Collection[str] = ()
) -> None:
    """The objective needs no columns other than those it names; loss and metrics are finite numbers. Otherwise a
    ConformanceError."""
    for seed in seeds:
        try:
            loss, metrics, _ = run(objective, [_batch(objective, pairs, seed, tokens)], objective.columns)
        except (AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
            told = f"given only {list(objective.columns)} it raises {type(error).__name__}: {error}"
            raise ConformanceError("columns", told) from error
        finite = all(map(torch.isfinite, map(torch.tensor, (loss, *metrics.values()))))
        need("columns", finite, f"seed {seed}: loss {loss}, metrics {metrics}")


def micro_batches(
    objective: Objective, pairs: bool = False, seeds: Iterable[int] = range(10), tokens: Collection[str] = ()
) -> None:
    """Loss, metrics and gradients of a global batch are the same however it is cut into micro-batches and padded."""
    for seed in seeds:
        rows = _batch(objective, pairs, seed, tokens)
        loss, metrics, gradients = run(objective, [rows])
        again, figures, cut_gradients = run(objective, cut(rows, seed))
        need("micro_batches", _close(loss, again), f"seed {seed}: loss {loss} whole, {again} in micro-batches")
        wrong = [name for name in metrics | figures if not _close(metrics.get(name, 0.0), figures.get(name, 0.0))]
        need("micro_batches", not wrong, f"seed {seed}: the metrics {wrong} depend on the cut")
        kept, found = (sorted(each for each in both if each) for both in (gradients, cut_gradients))
        same = len(kept) == len(found) and all(map(_close, kept, found))
        need("micro_batches", same, f"seed {seed}: gradients depend on the cut")


def differences(
    objective: Objective, pairs: bool = False, seeds: Iterable[int] = range(10), tokens: Collection[str] = ()
) -> None:
    """The gradient of the log-probs (and of the entropy, if named) equals finite differences."""
    for seed in seeds:
        rows = _batch(objective, pairs, seed, tokens)
        logprob_N, columns = tensors(rows, objective.columns)
        totals = objective.totals([row.utterance for row in rows])
        own = [logprob_N] if columns.entropy_N is None else [logprob_N, columns.entropy_N]
        loss, _ = objective(logprob_N, columns, totals)
        found = torch.autograd.grad(loss, own, allow_unused=True)
        for name, column_N, gradient_N in zip(("log-prob", "entropy"), own, found, strict=False):
            slope_N = torch.zeros_like(column_N) if gradient_N is None else gradient_N
            wrong = (slope_N - _slopes(objective, column_N, logprob_N, columns, totals)).abs().max().item()
            need("differences", wrong < 1e-6, f"seed {seed}: the {name}'s gradient is off by {wrong:.1g}")


def _slopes(
    objective: Objective, moved_N: Tensor, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
) -> Tensor:
    """Central differences [N] of the loss in each entry of `moved_N`, one of the given tensors."""
    slopes, step = torch.zeros_like(moved_N), 1e-6
    with torch.no_grad():
        for token in range(len(moved_N)):
            ends = []
            for by in (step, -2 * step):
                moved_N[token] += by
                ends.append(objective(logprob_N, columns, totals)[0].item())
            moved_N[token] += step
            slopes[token] = (ends[0] - ends[1]) / (2 * step)
    return slopes


def padding(
    objective: Objective, pairs: bool = False, seeds: Iterable[int] = range(10), tokens: Collection[str] = ()
) -> None:
    """A batch whose weights are all 0 has loss 0, metrics 0 and no gradient."""
    for seed in seeds:
        rows = [replace(row, weight=0.0) for row in _batch(objective, pairs, seed, tokens)]
        loss, metrics, gradients = run(objective, [rows])
        zero = loss == 0.0 and not any(gradients) and not any(metrics.values())
        need("padding", zero, f"seed {seed}: a batch of weight 0 has loss {loss} and metrics {metrics}")


def constants(
    objective: Objective, pairs: bool = False, seeds: Iterable[int] = range(10), tokens: Collection[str] = ()
) -> None:
    """No gradient reaches the log-probs of other policies, and the metrics are detached."""
    for seed in seeds:
        rows = _batch(objective, pairs, seed, tokens)
        logprob_N, columns = tensors(rows, objective.columns)
        fixed = {name: getattr(columns, f"{name}_N") for name in KNOWN[:3]}
        for each_N in (each for each in fixed.values() if each is not None):
            each_N.requires_grad_()
        loss, metrics = objective(logprob_N, columns, objective.totals([row.utterance for row in rows]))
        loss.backward()
        reached = [name for name, each in fixed.items() if each is not None and each.grad is not None]
        need("constants", not reached, f"seed {seed}: a gradient reaches {reached}")
        live = [name for name, value in metrics.items() if value.requires_grad]
        need("constants", not live, f"seed {seed}: the metrics {live} are not detached")


Check = Callable[..., None]
CHECKS: Mapping[str, Check] = {
    "columns": columns_are_named,
    "micro_batches": micro_batches,
    "differences": differences,
    "padding": padding,
    "constants": constants,
}
