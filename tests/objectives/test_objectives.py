"""Every objective against published vectors, a slow float64 reference, finite differences, and every way to cut a
batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from parley.data.sample import Utterance
from parley.objectives import conformance
from parley.objectives.base import Objective
from parley.objectives.conformance import Row, cut, drawn, run, tensors
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.offline_po import OfflinePO
from parley.objectives.sft_kl import SFTKL
from parley.objectives.spin import Spin


def pairs(objective: Objective) -> bool:
    return isinstance(objective, Spin)


# --- the slow reference: one utterance at a time, in NumPy ---------------------------------------------------------


def items(row: Row, logp: np.ndarray, unit: str, frozen: np.ndarray) -> Iterator[tuple[float, float, float]]:
    """(log-prob, the same where it counts as a constant, reference) for each token, or once for the utterance."""
    if unit == "token":
        yield from zip(logp, frozen, row.ref, strict=True)
    else:
        yield np.mean(logp), np.mean(frozen), np.mean(row.ref)


def slow(
    objective: Objective, micros: Sequence[Sequence[Row]], values: Sequence[np.ndarray], frozen: Sequence[np.ndarray]
) -> float:
    """The loss of the batch, written down from the formulas. `values` [rows] holds the log-probs of each row."""
    parts = iter(zip(values, frozen, strict=True))
    live = [[(row, *next(parts)) for row in micro] for micro in micros]
    live = [[item for item in micro if item[0].weight] for micro in live]
    everything = [item for micro in live for item in micro]
    if getattr(objective, "scope", "batch") == "micro":
        return sum(len(micro) / len(everything) * FORMULA[type(objective)](objective, micro) for micro in live if micro)
    return FORMULA[type(objective)](objective, everything)


def slow_bc(objective: FilteredBC, batch: list) -> float:
    seen = [(row, [logp * (1 - math.exp(logp)) ** objective.focal for logp in v]) for row, v, _ in batch]
    top = sum(row.weight * -(sum(v) if objective.reduce == "token" else sum(v) / len(v)) for row, v in seen)
    return top / sum(row.weight * (len(v) if objective.reduce == "token" else 1) for row, v, _ in batch)


def slow_sft(objective: SFTKL, batch: list) -> float:
    terms = []
    for row, v, frozen in batch:
        for logp, _, ref in items(row, v, objective.unit, frozen):
            kl = math.exp(logp) * (logp - ref) if objective.kl == "pseudo" else 0.5 * (logp - ref) ** 2
            terms.append(row.weight * (-logp + objective.kl_coef * kl))
    return sum(terms) / len(terms)


def slow_po(objective: OfflinePO, batch: list) -> float:
    act, sft = [], []
    for row, v, frozen in batch:
        for logp, constant, ref in items(row, v, objective.unit, frozen):
            if row.kind == "sft":
                sft.append(row.weight * -logp)
                continue
            ratio = math.exp(logp - ref)
            advantage = row.reward - objective.kl_coef * ((logp if objective.kl_grad == "coupled" else constant) - ref)
            clipped = min(max(ratio, 1 - objective.clip), 1 + objective.clip)
            act.append(-row.weight * min(advantage * ratio, advantage * clipped))
    return (sum(act) / len(act) if act else 0.0) + objective.sft_coef * (sum(sft) / len(sft) if sft else 0.0)


def slow_spin(objective: Spin, batch: list) -> float:
    margins: dict[int, float] = {}
    for row, v, _ in batch:
        gain = sum(v) - (0.0 if objective.reference_free else sum(row.ref))
        margins[row.pair] = margins.get(row.pair, 0.0) + row.side * gain
    z = [objective.beta * margin for margin in margins.values()]
    return sum(math.log1p(math.exp(-each)) if objective.kind == "sigmoid" else max(0.0, 1 - each) for each in z) / len(
        z
    )


FORMULA: dict[type, Callable] = {FilteredBC: slow_bc, SFTKL: slow_sft, OfflinePO: slow_po, Spin: slow_spin}

CORRECTED: list[Objective] = [
    FilteredBC(),
    FilteredBC(reduce="utterance"),
    FilteredBC(focal=0.5),
    FilteredBC(reduce="utterance", focal=2.0),
    SFTKL(),
    SFTKL(unit="utterance", kl="pseudo"),
    OfflinePO(),
    OfflinePO(unit="utterance", kl_grad="coupled"),
    Spin(),
    Spin(beta=0.7, kind="hinge"),
    Spin(reference_free=True),
]
FAITHFUL: list[Objective] = [
    SFTKL(form="faithful"),
    OfflinePO(form="faithful"),
    OfflinePO(form="faithful", kl_grad="detached"),
    Spin(form="faithful"),
]


@pytest.mark.parametrize("objective", CORRECTED + FAITHFUL, ids=str)
def test_losses_and_gradients_equal_the_slow_reference(objective: Objective) -> None:
    for seed in range(12):
        micros = cut(drawn(seed, pairs(objective)), seed)
        rows = [row for micro in micros for row in micro]
        loss, _, gradients = run(objective, micros)
        values = [np.array(row.logp) for row in rows]
        assert loss == pytest.approx(slow(objective, micros, values, values), abs=1e-12)
        numeric = []
        for index, value in enumerate(values):
            for token in range(len(value)):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = value.copy()
                    moved[token] += step
                    ends.append(slow(objective, micros, [*values[:index], moved, *values[index + 1 :]], values))
                numeric.append((ends[0] - ends[1]) / 2e-6)
        np.testing.assert_allclose(gradients, numeric, atol=2e-8)


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("objective", CORRECTED, ids=str)
def test_the_kit(objective: Objective, check: str) -> None:
    if check == "differences" and getattr(objective, "kl_grad", "coupled") == "detached":
        pytest.skip("its penalty is constant on purpose; the slow reference above knows it")
    conformance.CHECKS[check](objective, pairs(objective), range(6))


def test_faithful_depends_on_the_cut_as_published() -> None:
    """SPAG A8: in micro-batches of 2, a row alone in its class counts 1, two of a class count one half each."""
    act = Row((-1.0,), (-1.0,), reward=0.5)
    sft = Row((-2.0,), (-2.0,), kind="sft")
    objective = OfflinePO(form="faithful")
    mixed, *_ = run(objective, [[act, sft], [act, sft]])
    sorted_, *_ = run(objective, [[act, act], [sft, sft]])
    assert mixed == pytest.approx(-0.5 + 0.5 * 2.0)
    assert sorted_ == pytest.approx((-0.5 + 0.5 * 2.0) / 2)
    assert run(OfflinePO(), [[act, sft], [act, sft]])[0] == pytest.approx(run(OfflinePO(), [[act, act], [sft, sft]])[0])


# --- published vectors, typed by hand from the specs ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["faithful", "corrected"])
@pytest.mark.parametrize(
    ("reward", "k", "surrogate", "clipped"),
    [(0.5, 0.1, -0.53048, 0), (0.5, 0.3, -0.52800, 1), (0.5, -0.3, -0.41486, 0), (0.05, 0.4, 0.044755, 0)],
)
def test_spag_surrogate(form: str, reward: float, k: float, surrogate: float, clipped: int) -> None:
    objective = OfflinePO(form=form)
    loss, metrics, _ = run(objective, [[Row((-1.0 + k,), (-1.0,), reward)]])
    assert loss == pytest.approx(surrogate, abs=6e-6)
    assert metrics["clipped"] == clipped
    assert metrics["ratio"] == pytest.approx({0.1: 1.10517, 0.3: 1.34986, -0.3: 0.74082, 0.4: 1.49182}[k], abs=6e-6)


def test_spag_ratio_is_a_geometric_mean_of_token_ratios() -> None:
    rows = [Row((-1.0, -0.4, -2.3), (-1.2, -0.5, -2.3), 0.5)]  # k = +.2, +.1, 0: mean .1
    assert run(OfflinePO(form="faithful"), [rows])[0] == pytest.approx(-0.53048, abs=6e-6)
    by_token = [0.46 * math.exp(0.2), 0.48 * math.exp(0.1), 0.5]  # the first: min(.46 * 1.2214, .46 * 1.2)
    assert run(OfflinePO(), [rows])[0] == pytest.approx(-(0.46 * 1.2 + sum(by_token[1:])) / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("kl_grad", "reward", "k", "slope"),
    [
        ("coupled", 0.5, 0.0, -0.30),
        ("coupled", 0.122, 0.0, 0.078),
        ("detached", 0.5, 0.0, -0.50),
        ("detached", 0.122, 0.0, -0.122),
        ("coupled", 0.5, 0.3, 0.24),  # clipped: 1.2 * kl_coef remains
        ("detached", 0.5, 0.3, 0.0),
    ],
)
def test_spag_slopes(kl_grad: str, reward: float, k: float, slope: float) -> None:
    for unit in ("token", "utterance"):
        _, _, gradient = run(OfflinePO(kl_grad=kl_grad, unit=unit), [[Row((-1.0 + k,), (-1.0,), reward)]])
        assert gradient == pytest.approx([slope], abs=1e-12)


def test_spag_imitation() -> None:
    loss, metrics, gradient = run(SFTKL(form="faithful"), [[Row((-1.0,), (-1.2,))]])
    assert (metrics["kl"], loss) == (pytest.approx(0.073576, abs=5e-7), pytest.approx(1.0073576, abs=5e-8))
    assert gradient == pytest.approx([-1 + 0.1 * math.exp(-1) * (1 + 0.2)])
    assert run(SFTKL(), [[Row((-1.0,), (-1.2,))]])[0] == pytest.approx(1.002)


def test_spin_at_the_start() -> None:
    rows = [Row((-1.0, -2.0), (-1.0, -2.0), pair=4, side=1), Row((-3.0,), (-3.0,), pair=4, side=-1)]
    loss, metrics, _ = run(Spin(), [rows])
    assert loss == pytest.approx(0.6931, abs=5e-5)
    assert metrics["rewards/accuracies"] == 0.0
    assert (metrics["logps/real"], metrics["logps/generated"]) == (-3.0, -3.0)
    assert run(Spin(kind="hinge"), [rows])[0] == 1.0


def test_spin_sums_over_tokens_and_names_its_rewards() -> None:
    rows = [Row((-1.0, -1.0), (-1.5, -2.0), pair=0, side=1), Row((-2.5,), (-2.0,), pair=0, side=-1)]  # h = 1.5 + 0.5
    loss, metrics, _ = run(Spin(), [rows])
    assert loss == pytest.approx(0.598139, abs=5e-7)
    expected = {"rewards/real": 0.15, "rewards/generated": -0.05, "rewards/margins": 0.2, "rewards/accuracies": 1.0}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert run(Spin(kind="hinge"), [rows])[0] == pytest.approx(0.8)


def test_behaviour_cloning_worked_numbers() -> None:
    rows = [Row((-1.0, -3.0), (0.0, 0.0)), Row((-5.0,), (0.0,), weight=0.5)]
    assert run(FilteredBC(), [rows])[0] == pytest.approx(2.6)
    assert run(FilteredBC(reduce="utterance"), [rows])[0] == pytest.approx(3.0)
    loss, metrics, _ = run(FilteredBC(focal=1.0), [[Row((-1.0,), (0.0,))]])
    assert (loss, metrics["nll"]) == pytest.approx((0.632121, 1.0))
    with pytest.raises(ValueError, match="focal is -1, expected 0"):
        FilteredBC(focal=-1)


def test_a_token_that_is_certain_has_no_gradient() -> None:
    _, _, gradients = run(FilteredBC(focal=0.5), [[Row((0.0, -1e-9, -1.0), (0.0, 0.0, 0.0))]])
    assert gradients[:2] == pytest.approx([0.0, 0.0], abs=1e-4) and math.isfinite(gradients[2]) and gradients[2] < -0.1


# --- edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["columns", "padding", "constants"])
@pytest.mark.parametrize("objective", FAITHFUL, ids=str)
def test_the_kit_of_published_forms(objective: Objective, check: str) -> None:
    """Their loss may depend on how the batch was cut."""
    conformance.CHECKS[check](objective, pairs(objective), range(3))


@pytest.mark.parametrize("objective", [SFTKL(), OfflinePO(), Spin()], ids=str)
def test_a_missing_column_is_an_error(objective: Objective) -> None:
    logprob_N, columns = tensors(drawn(1, True))
    totals = {"units": 1.0, "act": 1.0, "sft": 1.0, "utterances": 1.0, "pairs": 1.0}
    with pytest.raises(ValueError, match="needs the column 'old', which was not given"):
        objective(logprob_N, replace(columns, old_N=None), totals)


def test_half_a_pair_and_wrong_words_are_errors() -> None:
    with pytest.raises(ValueError, match="1 pairs have one side only"):
        Spin().totals([Utterance(1, 2, pair=1, side=1)])
    for build in (
        lambda: OfflinePO(form="fixed"),
        lambda: OfflinePO(kl_grad="live"),
        lambda: Spin(kind="ipo"),
        lambda: SFTKL(kl="k3"),
    ):
        with pytest.raises(ValueError, match="expected"):
            build()


def test_forms_set_every_switch() -> None:
    assert (OfflinePO().kl_grad, OfflinePO().unit, OfflinePO().scope) == ("detached", "token", "batch")
    faithful = OfflinePO(form="faithful")
    assert (faithful.kl_grad, faithful.unit, faithful.scope) == ("coupled", "utterance", "micro")
    assert (SFTKL(form="faithful").kl, Spin(form="faithful").scope) == ("pseudo", "micro")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("unit", ["token", "utterance"])
def test_the_metrics_of_offline_po_are_what_its_page_says(seed, unit):
    objective = OfflinePO(unit=unit)
    rows = drawn(seed)
    metrics = run(objective, cut(rows, seed))[1]
    seen = []
    for row in [row for row in rows if row.kind != "sft"]:
        k = np.array(row.logp) - np.array(row.ref)
        for each in k if unit == "token" else [k.mean()]:
            ratio = math.exp(each)
            plain = (row.reward - objective.kl_coef * each) * ratio
            held = (row.reward - objective.kl_coef * each) * min(max(ratio, 0.8), 1.2)
            seen.append((ratio - 1 - each, ratio, float(held < plain), row.reward))
    for at, name in enumerate(("kl", "ratio", "clipped", "reward")):
        assert metrics[name] == pytest.approx(np.mean([values[at] for values in seen]) if seen else 0.0)
    assert metrics["kl"] >= 0
