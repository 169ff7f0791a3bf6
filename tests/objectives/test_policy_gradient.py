"""The policy gradient's switches against a slow float64 reference, finite differences, every cut of a batch, and what
peers' own functions gave (tests/fixtures/peers.json; benchmarks/peer_fixtures.py made it)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parley.data.sample import Utterance
from parley.objectives.base import Columns
from parley.objectives.policy_gradient import PolicyGradient


@dataclass(frozen=True)
class Said:
    """One utterance: its tokens' log-probs now, under the sampler, under the old policy and under the reference, and
    entropies."""

    now: tuple[float, ...]
    sampler: tuple[float, ...]
    old: tuple[float, ...]
    fixed: tuple[float, ...]
    entropy: tuple[float, ...]
    advantage: float = 1.0
    weight: float = 1.0
    kind: str = "act"
    stream: int = 0

    @property
    def utterance(self) -> Utterance:
        return Utterance(3, 3 + len(self.now), self.advantage, self.weight, self.kind)


def said(now: Sequence[float], advantage: float, **more: Any) -> Said:
    """An utterance whose other log-probs are as the policy's own where nothing else is said."""
    own = tuple(now)
    given = {name: tuple(more.pop(name, own)) for name in ("sampler", "old", "fixed")}
    return Said(own, **given, entropy=tuple(more.pop("entropy", [0.0] * len(own))), advantage=advantage, **more)


def tensors(rows: Sequence[Said]) -> tuple[torch.Tensor, torch.Tensor, Columns]:
    """(logprob_N, entropy_N, columns) with streams counted from 0."""

    def column(name: str, **how: Any) -> torch.Tensor:
        return torch.tensor([x for row in rows for x in getattr(row, name)], dtype=torch.float64, **how)

    streams = {each: at for at, each in enumerate(dict.fromkeys(row.stream for row in rows))}
    entropy_N, zeros_U = column("entropy", requires_grad=True), torch.zeros(len(rows))
    return column("now", requires_grad=True), entropy_N, Columns(
        utterance_N=torch.tensor([at for at, row in enumerate(rows) for _ in row.now]),
        reward_U=torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        weight_U=torch.tensor([row.weight for row in rows], dtype=torch.float64),
        sft_U=torch.tensor([row.kind == "sft" for row in rows]), pair_U=zeros_U.long() - 1, side_U=zeros_U,
        stream_U=torch.tensor([streams[row.stream] for row in rows]),
        sampler_N=column("sampler"), old_N=column("old"), reference_N=column("fixed"), entropy_N=entropy_N,
        kl_N=entropy_N,
    )  # fmt: skip


def run(
    objective: PolicyGradient, micros: Sequence[Sequence[Said]]
) -> tuple[float, dict[str, float], list[float], list[float]]:
    """Loss, metrics, and the gradients of log-probs and entropies, over all micro-batches."""
    totals = objective.totals([row.utterance for micro in micros for row in micro])
    loss, metrics, slopes, entropies = 0.0, dict[str, float](), list[float](), list[float]()
    for micro in micros:
        logprob_N, entropy_N, columns = tensors(micro)
        part, figures = objective(logprob_N, columns, totals)
        for found, tensor in ((slopes, logprob_N), (entropies, entropy_N)):
            (slope,) = torch.autograd.grad(part, tensor, retain_graph=True, allow_unused=True)
            found += [0.0] * len(tensor) if slope is None else slope.tolist()
        loss += part.item()
        metrics = {name: metrics.get(name, 0.0) + value.item() for name, value in figures.items()}
    return loss, metrics, slopes, entropies


def rows_of(seed: int) -> list[Said]:
    draw = np.random.default_rng(seed)

    def row(stream: int) -> Said:
        length = int(draw.integers(1, 6))
        now = np.minimum(draw.normal(-1.2, 0.8, length), -0.01)
        near = [tuple(np.minimum(now + draw.normal(0, width, length), -1e-3)) for width in (0.4, 0.3, 0.6)]
        kind = "sft" if draw.random() < 0.2 else "act"
        sampler = (math.nan,) * length if kind == "sft" else near[0]
        advantage = 0.0 if draw.random() < 0.2 else float(draw.normal(0, 1.5))
        entropy = tuple(draw.uniform(0, 3, length))
        return Said(
            tuple(now), sampler, near[1], near[2], entropy, advantage, float(draw.uniform(0.3, 3)), kind, stream
        )

    return [row(int(draw.integers(0, 4))) for _ in range(int(draw.integers(4, 14)))]


def cut(rows: Sequence[Said], seed: int) -> list[list[Said]]:
    """Random micro-batches with streams kept whole, one with an utterance of padding, and one of padding alone."""
    draw = np.random.default_rng(seed)
    micros: dict[int, list[Said]] = {}
    where = {stream: int(draw.integers(0, 3)) for stream in {row.stream for row in rows}}
    for row in rows:
        micros.setdefault(where[row.stream], []).append(row)
    padding = [replace(row, weight=0.0, stream=99) for row in rows[:2]]
    return [padding, *([*micro, padding[0]] for micro in micros.values())]


# --- the slow reference: token by token. `frozen` are the log-probs where they count as constants ---


def slow(loss: PolicyGradient, rows: Sequence[Said], now: Sequence[Any], frozen: Sequence[Any], entropy: Any) -> float:
    rows = list(rows)
    live = [at for at, row in enumerate(rows) if row.weight and row.kind == "act"]
    sfts = [at for at, row in enumerate(rows) if row.weight and row.kind == "sft"]
    tokens = sum(len(rows[at].now) for at in live)

    def old(at: int, t: int) -> float:
        return {"sampler": rows[at].sampler[t], "old": rows[at].old[t], "self": frozen[at][t]}[loss.against]

    def log_ratio(at: int, t: int) -> float:
        own = now[at][t] - old(at, t)
        if loss.ratio == "token":
            return own
        group = [at] if loss.ratio == "utterance" else [each for each in live if rows[each].stream == rows[at].stream]
        apart = [frozen[each][s] - old(each, s) for each in group for s in range(len(rows[each].now))]
        return sum(apart) / len(apart) + now[at][t] - frozen[at][t]

    total = 0.0
    for at in live:
        row, n = rows[at], len(rows[at].now)
        for t in range(n):
            a, fixed = row.advantage, (row.fixed[t] if loss.towards == "reference" else old(at, t))
            if loss.kl_coef and loss.kl_in == "reward":
                a -= loss.kl_coef * (frozen[at][t] - fixed)
            k = log_ratio(at, t)
            ratio, lowest = math.exp(k), -math.inf if loss.low is None else 1 - loss.low
            highest = math.inf if loss.high is None else 1 + loss.high
            bounded = min(max(ratio, lowest), highest)
            if loss.kind == "importance":
                term = -a * ratio
            elif loss.kind == "cispo":
                constant = math.exp(k - now[at][t] + frozen[at][t])
                term = -min(max(constant, lowest), highest) * a * now[at][t]
            elif loss.kind == "mask":
                gap = math.exp(frozen[at][t]) - math.exp(old(at, t))
                off = (a > 0 and gap > (loss.high or math.inf)) or (a < 0 and -gap > (loss.low or math.inf))
                term = 0.0 if off else -a * ratio
            else:
                term = max(-a * ratio, -a * bounded)
                term = min(term, -a * loss.dual) if loss.dual is not None and a < 0 else term
            apart = [row.old[s] - row.sampler[s] for s in range(n)]
            if loss.cap is not None:
                term *= min(math.exp(apart[t]), loss.cap)
            if loss.reject is not None and not loss.reject[0] <= math.exp(sum(apart) / n) <= loss.reject[1]:
                term = 0.0
            if loss.kl_coef and loss.kl_in == "loss":
                d = now[at][t] - fixed
                estimates = {"k2": d * d / 2, "k3": math.exp(-d) - 1 + d, "full": entropy[at][t]}
                term += loss.kl_coef * estimates[loss.kl]
            term -= loss.entropy_coef * entropy[at][t]
            total += row.weight * term / (n if loss.per == "utterance" else 1)
    below = {"token": tokens, "utterance": len(live), "length": len(live) * (loss.length or 1)}[loss.per]
    sft = sum(-rows[at].weight * value for at in sfts for value in now[at])
    return (total / below if live else 0.0) + loss.sft_coef * (
        sft / sum(len(rows[at].now) for at in sfts) if sfts else 0
    )


LOSSES = [
    PolicyGradient(),
    PolicyGradient(against="old", high=0.28, per="utterance", sft_coef=0.5),
    PolicyGradient(against="old", dual=3.0, per="length", length=64),
    PolicyGradient(against="self", kl_coef=0.2, kl="k3", entropy_coef=0.01),
    PolicyGradient(kl_coef=0.1, kl="k2"),
    PolicyGradient(kl_coef=0.3, kl="k1", kl_in="reward", dual=1.4),
    PolicyGradient(kind="cispo", low=1.0, high=0.3),
    PolicyGradient(kind="cispo", low=None, high=0.1, ratio="utterance"),
    PolicyGradient(kind="importance", low=None, high=None, against="old", cap=1.2),
    PolicyGradient(against="old", cap=2.0, reject=[0.8, 1.2], kl_coef=0.1),
    PolicyGradient(ratio="utterance", low=0.05, high=0.08, per="utterance"),
    PolicyGradient(ratio="stream", low=0.05, high=0.08),
    PolicyGradient(kind="mask", low=0.1, high=0.05, kl_coef=0.002, towards="old"),
    PolicyGradient(low=None, high=None),
    PolicyGradient(kl_coef=0.3, kl="full", per="utterance"),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_and_gradients_equal_the_slow_reference(loss: PolicyGradient) -> None:
    for seed in range(12):
        micros = cut(rows_of(seed), seed)
        rows = [replace(row, stream=row.stream + 100 * at) for at, micro in enumerate(micros) for row in micro]
        values, entropy = [np.array(row.now) for row in rows], [np.array(row.entropy) for row in rows]
        value, _, slopes, entropies = run(loss, micros)
        assert value == pytest.approx(slow(loss, rows, values, values, entropy), abs=1e-12)
        for varied, found in ((values, slopes), (entropy, entropies)):
            numeric = []
            for at, tokens in enumerate(varied):
                for token in range(len(tokens)):
                    ends = []
                    for step in (1e-6, -1e-6):
                        moved = tokens.copy()
                        moved[token] += step
                        new = [*varied[:at], moved, *varied[at + 1 :]]
                        now, over = (new, entropy) if varied is values else (values, new)
                        ends.append(slow(loss, rows, now, values, over))
                    numeric.append((ends[0] - ends[1]) / 2e-6)
            np.testing.assert_allclose(found, numeric, atol=2e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_cut_into_micro_batches_changes_nothing(loss: PolicyGradient) -> None:
    for seed in range(15):
        rows = rows_of(seed)
        value, metrics, *_ = run(loss, [rows])
        again, figures, *_ = run(loss, cut(rows, seed + 1000))
        assert again == pytest.approx(value, abs=1e-12) and figures == pytest.approx(metrics, abs=1e-12)


# --- worked by hand ---


def test_worked_numbers() -> None:
    """rho = exp(.3) = 1.349859 outside a clip of .2; p - q = .5 - .370409."""
    now, old = [math.log(0.5)], [math.log(0.5) - 0.3]
    up, down = said(now, 2.0, sampler=old), said(now, -2.0, sampler=old)
    assert run(PolicyGradient(), [[up]])[0] == pytest.approx(-2.4)
    assert run(PolicyGradient(), [[up]])[2] == [0.0]
    assert run(PolicyGradient(), [[down]])[0] == pytest.approx(2.699718)
    assert run(PolicyGradient(dual=1.3), [[down]])[0] == pytest.approx(2.6)
    assert run(PolicyGradient(kind="cispo"), [[up]])[2] == pytest.approx([-2.4])
    assert run(PolicyGradient(kind="mask", high=0.1), [[up]])[2] == [0.0]
    assert run(PolicyGradient(kind="mask", high=0.2), [[up]])[2] == pytest.approx([-2.699718])
    assert run(PolicyGradient(against="self"), [[up]])[2] == [-2.0]
    _, metrics, *_ = run(PolicyGradient(), [[up]])
    assert metrics == pytest.approx(
        {"policy": -2.4, "reward": 2.0, "ratio": 1.349859, "clipped": 1.0, "mismatch": 0.045}
    )


def test_a_reply_without_an_advantage_moves_where_there_is_a_penalty() -> None:
    row = said([-0.5, -0.5], 0.0, fixed=[-1.0, -1.0])
    assert run(PolicyGradient(), [[row]])[2] == [0.0, 0.0]
    assert run(PolicyGradient(kl_coef=0.2), [[row]])[2] == pytest.approx([0.05, 0.05])
    assert [PolicyGradient(**how).penalised for how in ({}, {"kl_coef": 0.1}, {"entropy_coef": 0.1})] == [
        False,
        True,
        True,
    ]


def test_what_does_not_go_together_is_refused() -> None:
    for how, told in (
        ({"kl": "k1", "kl_coef": 0.1}, "belongs in the reward"),
        ({"kl": "k3", "kl_coef": 0.1, "kl_in": "reward"}, "belongs in the reward"),
        ({"cap": 2.0}, "say against=old"),
        ({"against": "old", "reject": [2.0, 0.5]}, "lowest, highest"),
        ({"dual": 0.5}, "more than 1"),
        ({"per": "length"}, "needs length"),
        ({"length": 5}, "needs length"),
    ):
        with pytest.raises(ValueError, match=told):
            PolicyGradient(**how)
    with pytest.raises(ValueError, match="no recorded log-prob"):
        run(PolicyGradient(), [[said([-1.0], 1.0, sampler=[math.nan])]])


# --- what peers' own functions gave ---

PEERS = json.loads((Path(__file__).parents[1] / "fixtures/peers.json").read_text())
OLD = {"against": "old"}
LIKE = {
    ("verl", "vanilla"): PolicyGradient(**OLD, high=0.28, dual=3.0),
    ("verl", "gspo"): PolicyGradient(**OLD, low=0.1, high=0.15, ratio="utterance", per="utterance"),
    ("verl", "cispo"): PolicyGradient(**OLD, kind="cispo"),
    ("trl", "grpo"): PolicyGradient(**OLD, kl_coef=0.04, kl="k3", per="utterance"),
    ("trl", "dr_grpo"): PolicyGradient(**OLD, per="length", length=64),
    ("trl", "dapo"): PolicyGradient(**OLD, high=0.28),
    ("trl", "cispo"): PolicyGradient(**OLD, kind="cispo", low=None, high=0.1),  # TRL's epsilon_high is 1 + high
    ("trl", "gspo"): PolicyGradient(**OLD, low=0.1, high=0.15, ratio="utterance", per="utterance"),
    ("marshal", "marshal"): PolicyGradient(**OLD, dual=1.4, kl_coef=0.2, kl="k3"),
    ("marshal", "by_log"): PolicyGradient(**OLD, dual=1.4, kl_coef=0.2, kl="k3", per="utterance"),
    ("prime_rl", "default"): PolicyGradient(kind="mask", low=0.05, high=0.1, kl_coef=0.002, towards="old"),
}


def peers_rows() -> list[Said]:
    given = PEERS["inputs"]
    columns = zip(given["now"], given["old"], given["fixed"], given["advantages"], strict=True)
    return [said(now, advantage, old=old, sampler=old, fixed=fixed) for now, old, fixed, advantage in columns]


@pytest.mark.parametrize(("peer", "name"), LIKE)
def test_losses_and_gradients_are_those_of_peers(peer: str, name: str) -> None:
    """In float64; prime-rl sums over tokens, so its figures are divided by their number; verl adds 1e-8 below."""
    loss, theirs = LIKE[peer, name], PEERS[peer]["losses"][name]
    by = sum(len(row.now) for row in peers_rows()) if peer == "prime_rl" else 1
    value, _, slopes, _ = run(loss, [peers_rows()])
    assert value == pytest.approx(theirs["loss"] / by, abs=1e-7)
    assert slopes == pytest.approx([x / by for row in theirs["gradient"] for x in row], abs=1e-7)


@pytest.mark.parametrize(("kl", "theirs"), [("k2", "mse"), ("k3", "low_var_kl")])
def test_the_estimates_of_the_kl_are_those_of_verl(kl: Any, theirs: str) -> None:
    _, metrics, *_ = run(PolicyGradient(kl_coef=0.1, kl=kl), [peers_rows()])
    values = [x for row in PEERS["verl"]["kl"][theirs] for x in row]
    assert metrics["kl"] == pytest.approx(sum(values) / len(values), abs=1e-9)
