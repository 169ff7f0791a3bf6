"""What a device holds beside the policy that learns (task=plan).

With one round in an iteration nothing: every model is gone before the next one is loaded. With several rounds the
backend, the fixed models and the other policies stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from ..learners.lightning import LightningLearner
from ..learners.memory import GIB, Memory, Model
from ..learners.reference import RECORDED, foreign

Held = dict[str, float]  # what it is -> bytes


def beside(config: DictConfig, learner: LightningLearner, model: Model, memory: Memory) -> Held:
    """What stays on a rank's device beside the policy whose own peak is `memory`."""
    if config.rounds == 1 and "kl" not in learner.loss.columns:
        return {}
    others = _policies(config, learner, model, memory)
    held = {**others, **_fixed(config, learner, model), **_played(learner, model)}
    return {name: size for name, size in held.items() if size}


def _policies(config: DictConfig, learner: LightningLearner, model: Model, memory: Memory) -> Held:
    """The other policies' own weights and their optimisers; adapters share the base."""
    others = max(len(config.policies), 1) - 1
    return {f"{others} other policies with their optimisers": others * (_own(learner, model) + memory.optimizer)}


def _fixed(config: DictConfig, learner: LightningLearner, model: Model) -> Held:
    """The models whose log-probs the loss compares with. An adapter's base serves as it is."""
    held = {}
    if "old" in learner.loss.columns and foreign(config.old) is not None:
        held[f"old={config.old}"] = model.stored(learner.hardware)
    if {"reference", "kl"} & set(learner.loss.columns):
        own = {"start": _own(learner, model), "previous": _own(learner, model)}
        own |= {"base": 0.0} if model.adapter is not None else {}
        held[f"reference={config.reference}"] = own.get(config.reference, model.stored(learner.hardware))
    return held


def _own(learner: LightningLearner, model: Model) -> float:
    """Bytes of a further policy of this kind: an adapter alone (its numbers are float32) where the base is shared."""
    if model.adapter is None or learner.hardware.strategy.startswith("fsdp"):
        return model.stored(learner.hardware)
    return 4.0 * model.parameters()[1]


def _played(learner: LightningLearner, model: Model) -> Held:
    """The copy of the weights from which the backend plays, where it cannot share the learner's."""
    hardware: Any = learner.hardware
    if not hardware.strategy.startswith("fsdp") and (model.adapter is not None or hardware.precision != "bf16-mixed"):
        return {}
    each = 2 if hardware.precision.startswith("bf16") else 4
    return {"the backend's own copy of the weights": float(each * model.parameters()[0])}


def listed(held: Held) -> str:
    """The parts with their sizes."""
    return ", ".join(f"{name} ({size / GIB:.3f} GiB)" for name, size in held.items())


def compared(config: DictConfig, learner: LightningLearner, tokens: int) -> Iterator[str]:
    """What a round costs besides its steps: passes for the columns that the loss compares with, over so many tokens."""
    one = f"one forward pass over about {tokens:,} tokens"
    if "old" in learner.loss.columns:
        if config.old == RECORDED:
            yield "The policy at the round's start (old=recorded): as play wrote it down, checked on few samples."
        else:
            yield f"The policy at the round's start (old={config.old}): {one} before the round's first step."
    if "reference" in learner.loss.columns:
        yield f"The fixed model (reference={config.reference}): {one} before the round's first step."
    if "kl" in learner.loss.columns:
        yield f"The fixed model (reference={config.reference}): a forward pass beside that of every step."
