"""parley's training engine against the plain comparator: speed and memory on a CPU, with and without the reference
pass.

    python benchmarks/train.py [--pairs 5] [--no-tables]

Both train the same model from the same weights on the same global batches with the same objective; the losses must
agree. Timed are CPU-seconds of whole optimiser steps (packing, collation and clipping included) on one thread, in
interleaved pairs: the median of the ratios, the least and the largest. `recorded`: the reference log-probs are stored
already; `with_pass`: the pass that computes them is counted in. Memory is the peak of the resident set less what it was
after the imports, each side in a process of its own. The tables show how the ratios move with turns, length and shared
rules. The last line is JSON: ratios to the comparator, above 1 for speed, below 1 for memory.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from comparator import Comparator
from dialogues import SMALL, Dialogues, Profile, Shape
from parley.batches.plan import Plan, plan
from parley.learners.checkpoint import Saving
from parley.learners.device import budget, working
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.learners.reference import forward
from parley.learners.training import Training
from parley.models.policy import Policy, check_packable
from parley.models.snapshot import Snapshot
from parley.objectives.offline_po import OfflinePO
from results import record
from torch import Tensor
from transformers import LlamaForCausalLM

STEPS = 2  # optimiser steps of a run; from the second on the policy differs from its reference
LOSS, NORM = 1e-5, 1e-3  # how far losses may be apart, and gradient norms relative to themselves


@dataclass(frozen=True)
class Run:
    """CPU-seconds of all steps, the (loss, gradient norm) of each, and the tokens that were computed, padding
    included."""

    seconds: float
    curve: list[tuple[float, float]]
    tokens: int


def model(shape: Shape) -> LlamaForCausalLM:
    """The same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(shape.config())


class Bench:
    """One set-up: `data` in STEPS global batches, a model of `shape`, both engines; `mask` is the comparator's."""

    def __init__(self, data: Dialogues, shape: Shape = SMALL, hardware: Profile = Profile(), mask: bool = True) -> None:
        self.data, self.shape, self.hardware, self.mask = data, shape, hardware, mask
        self.samples = data.samples()
        self.batch = -(-sum(len(sample.utterances) for sample in self.samples) // STEPS)

    def plain(self) -> Run:
        """The comparator's."""
        engine = Comparator(model(self.shape), OfflinePO(), AdamW(lr=1e-4), mask=self.mask)
        steps = self._plan(Policy(model(self.shape)))
        batches = [[self.samples[member] for unit in units for member in unit] for units in steps.batches]
        start = time.process_time()
        curve = [engine.step(batch) for batch in batches]
        return Run(time.process_time() - start, curve, engine.tokens)

    def parley(self, folder: Path, old_M: Tensor | None = None) -> tuple[Run, Tensor]:
        """parley's, and the log-probs at its start; with `old_M` these are given, and their pass is spared."""
        learner = LightningLearner(
            OfflinePO(), self.hardware, AdamW(lr=1e-4), batch_utterances=self.batch, schedule="constant"
        )
        policy = Policy(model(self.shape), self.hardware.head_chunk).train()
        policy.use_path_attention()
        check_packable(policy)
        session = learner.session(
            Snapshot("random", ""), folder, seed=0, name="", saving=Saving(folder / "checkpoint", "", math.inf)
        )
        with working(self.hardware):
            start = time.process_time()
            session.training = Training(learner, policy)
            if old_M is None:
                space = budget(policy, self.hardware)
                old_M = forward(policy, self.samples, space, policy.causal_lm.device)
            session.columns["old"] = old_M
            session.step(self.samples)
            seconds = time.process_time() - start
        curve = [(row["loss"], row["grad_norm"]) for row in session.figures()["curve"]]
        steps = self._plan(policy)
        return Run(seconds, curve, sum(micro.padded for step in steps for micro in step.micros)), old_M

    def pair(self) -> dict[str, Run]:
        """One interleaved measurement; ValueError when losses or gradient norms differ."""
        with tempfile.TemporaryDirectory() as folder:
            plain = self.plain()
            with_pass, old_M = self.parley(Path(folder))
            recorded, _ = self.parley(Path(folder), old_M)
            runs = {"plain": plain, "with_pass": with_pass, "recorded": recorded}
        for name in ("with_pass", "recorded"):
            for (loss, norm), (expected, wanted) in zip(runs[name].curve, runs["plain"].curve, strict=True):
                if abs(loss - expected) > LOSS or abs(norm - wanted) > NORM * wanted:
                    raise ValueError(
                        f"{name}: loss {loss}, gradient norm {norm}; of the comparator {expected}, {wanted}"
                    )
        return runs

    def _plan(self, policy: Policy) -> Plan:
        return plan(self.samples, budget(policy, self.hardware), seed=0, epochs=1, batch_utterances=self.batch)


def speed(bench: Bench, pairs: int) -> dict[str, Any]:
    """Ratios over `pairs` interleaved pairs: median, least, largest; CPU-seconds per 100 utterances; tokens of a
    run."""
    runs = [bench.pair() for _ in range(pairs)]
    each = 100 / sum(len(sample.utterances) for sample in bench.samples)
    names = ("plain", "recorded", "with_pass")
    figures: dict[str, Any] = {
        "pairs": pairs,
        "tokens": {"plain": runs[0]["plain"].tokens, "packed": runs[0]["recorded"].tokens},
        "cpu_seconds_per_100_utterances": {
            name: round(median(run[name].seconds for run in runs) * each, 2) for name in names
        },
    }
    for name in names[1:]:
        ratios = [run["plain"].seconds / run[name].seconds for run in runs]
        figures[name] = {"median": round(median(ratios), 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)}
    return figures


def memory(bench: Bench) -> dict[str, float]:
    """Peak MiB of either side above what its process held after the imports, and their ratio."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain, parley = (pool.apply(_peak, (bench, side)) for side in ("plain", "parley"))
    return {"plain_mib": round(plain), "parley_mib": round(parley), "ratio": round(parley / plain, 3)}


def _peak(bench: Bench, side: str) -> float:
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        bench.plain() if side == "plain" else bench.parley(Path(folder))
    return resident("VmHWM") - before


def resident(line: str) -> float:
    """MiB of this process from Linux: VmRSS now, VmHWM at its peak (getrusage's peak would be inherited from the
    parent)."""
    found = re.search(rf"^{line}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError(f"/proc/self/status has no {line}: memory is measured on Linux only")
    return int(found[1]) / 1024


def tables(base: Dialogues, shape: Shape, hardware: Profile) -> dict[str, list[dict[str, Any]]]:
    """How speed moves with one thing at a time; one pair each."""
    kinds: dict[str, list[tuple[str, Dialogues, bool]]] = {
        "turns": [(f"{turns} turns", replace(base, turns=turns), True) for turns in (1, 2, 4, 8)],
        "length": [
            (f"replies of {low} to {3 * low} tokens", replace(base, turns=4, reply=(low, 3 * low)), True)
            for low in (5, 10, 40)
        ],
        "rules": [(f"rules of {size} tokens", replace(base, rules=size), True) for size in (60, 500)],
        "shared": [
            (name, replace(base, rule_texts=texts), True)
            for name, texts in (("rules of their own", 0), ("one text of rules", 1))
        ],
        "comparator": [(f"{turns} turns, no padding mask", replace(base, turns=turns), False) for turns in (3, 5)],
    }
    return {
        kind: [_row(name, Bench(data, shape, hardware, mask)) for name, data, mask in rows]
        for kind, rows in kinds.items()
    }


def _row(name: str, bench: Bench) -> dict[str, Any]:
    figures = speed(bench, 1)
    row = {"what": name, "tokens": figures["tokens"]} | {
        each: figures[each]["median"] for each in ("recorded", "with_pass")
    }
    print(f"{name:32s} {_said(row)}", flush=True)
    return row


def _said(row: dict[str, Any]) -> str:
    tokens = row["tokens"]
    return (
        f"tokens {tokens['plain']:7d} plain, {tokens['packed']:6d} packed ({tokens['plain'] / tokens['packed']:4.2f} "
        f"times fewer); "
        f"speed {row['recorded']:5.2f} recorded, {row['with_pass']:5.2f} with the pass"
    )


def main(arguments: Sequence[str] | None = None, shape: Shape = SMALL, matches: int = 16) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs of the two main figures")
    parser.add_argument("--no-tables", action="store_true", help="leave the scaling tables out")
    parser.add_argument("--no-record", action="store_true", help="do not write docs/results/train.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hardware = Profile()
    figures: dict[str, Any] = {
        "model": f"{shape}",
        "micro_tokens": hardware.micro_tokens,
        "matches": matches,
        "steps": STEPS,
    }
    last: dict[str, dict[str, float]] = {}
    for turns in (3, 5):
        bench = Bench(Dialogues(matches, turns, vocab=shape.vocab), shape, hardware)
        found = figures[f"turns{turns}"] = {**speed(bench, options.pairs), "memory": memory(bench)}
        last[f"turns{turns}"] = {name: found[name]["median"] for name in ("recorded", "with_pass")} | {
            "memory": found["memory"]["ratio"]
        }
        print(f"{turns} turns: {json.dumps(found)}", flush=True)
    if not options.no_tables:
        figures["tables"] = tables(Dialogues(matches // 2, 3, vocab=shape.vocab), shape, hardware)
    if not options.no_record:
        record("train", figures)
    print(json.dumps(last))
    return last


if __name__ == "__main__":
    main()
