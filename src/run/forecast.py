"""What one round of learning will do and need: the batch arithmetic and the memory of a device, in words (task=plan).

Samples and model are those of a run where one is given. Else the model is known from its folder or as a published
shape, and the samples have the lengths that the experiment states; the forecast says which. Batches are made by the
planner and packed by the packer that learning uses, on as many samples as some steps need; the rest is multiplied up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from ..batches.packing import Batch, collate, supervised
from ..batches.plan import Efficiency, efficiency
from ..batches.plan import plan as planned
from ..batches.shapes import Shape, draw
from ..data.sample import Sample
from ..learners.lightning import LightningLearner
from ..learners.memory import CONTEXT_GIB, GIB, PARTS, SLACK, Memory, Model, predict
from ..learners.reference import RECORDED
from ..models.published import SHAPES, shape
from ..models.snapshot import Snapshot
from ..system.files import InputError
from ..system.naming import locate
from .beside import Held, beside, compared, listed
from .config import leaves
from .hours import Tokens

PACKED = 8  # steps that are packed for a forecast


@dataclass(frozen=True, slots=True)
class Data:
    """Samples to plan with: all of them, or a part that stands for `utterances` in `samples` of them. `source` says
    whence."""

    part: Sequence[Sample]
    samples: int
    utterances: int
    source: str
    first: bool  # these are the first round's, and the later ones can be told from it
    forks: str = ""  # how many of the replies forked their token stream, where that was measured


@dataclass(frozen=True, slots=True)
class Forecast:
    """One round of learning. Tokens are those of one epoch."""

    data: Data
    model_source: str
    parameters: int
    trained: int
    steps: int  # of an epoch
    epochs: int
    packed: Efficiency  # of the steps that were packed
    scale: float  # from these steps to an epoch
    micros: tuple[int, int]  # of one rank in one step, fewest and most
    world: int
    rows: tuple[int, int]  # of the largest micro-batch: rows, tokens of a row
    supervised: int  # tokens of it
    vocabulary: int
    memory: Memory
    held: Held  # what stands beside the policy on its device
    shaped: Any  # the transformers config
    adapter: Any  # what is trained on it; None: all weights


def real(samples: Sequence[Sample], source: str, forks: str = "") -> Data:
    """Samples that are there."""
    live = [sample for sample in samples if sample.utterances]
    return Data(live, len(live), sum(len(sample.utterances) for sample in live), source, first=False, forks=forks)


def stated(node: DictConfig, batch_utterances: int) -> Data:
    """Samples of the lengths that `stated` gives; InputError where it gives none."""
    if not node.samples:
        raise InputError(
            "nothing says which samples to plan with: name a run (run=outputs/…), whose newest round is planned, "
            "or give their lengths in stated.samples"
        )
    given: Any = OmegaConf.to_container(node.samples)
    shapes = [Shape(**{**each, "replies": tuple(each["replies"])}) for each in given]
    total = sum(each.utterances for each in shapes)
    part = list(draw(shapes, min(1.0, PACKED * batch_utterances / total)))
    count = sum(each.groups * (1 if each.layout == "chats" else len(each.replies)) for each in shapes)
    return Data(part, count, total, f"stated, not real: {node.source}", first=True)


def architecture(config: DictConfig, snapshot: Snapshot | None = None) -> tuple[Any, str]:
    """(a transformers config, where it is from): of `snapshot`, of the model's folder, or of a published shape."""
    from transformers import AutoConfig

    if snapshot is not None:
        path = snapshot.base or snapshot.path
        return AutoConfig.from_pretrained(path, local_files_only=True), f"config.json of {path}"
    absent = ""
    if (source := _source(config.model)) is not None:
        try:
            return source.config(), f"the config of {getattr(source, 'path', None) or source.package}"
        except (InputError, OSError) as error:
            absent = f" ({str(error).splitlines()[0]})"
    if (name := config.stated.model) is None:
        raise InputError(
            f"the model's shape is not known{absent}: name a folder, a GGUF file or a hub id (model=hf model.path=…), "
            "a run (run=outputs/…), or a published shape (stated.model=…)"
        )
    if name not in SHAPES:
        raise InputError(f"stated.model={name}: there is no such shape, only {', '.join(SHAPES)}")
    return shape(name), f"published shape {name}{absent}"


def _source(node: DictConfig) -> Any:
    """The model source of `node`; None where it cannot tell an architecture, or its path is not said yet."""
    if OmegaConf.is_missing(node, "path") or not hasattr(locate(node._target_), "config"):
        return None
    return instantiate(node, _convert_="all")


def forecast(
    learner: LightningLearner, adapter: Any, shaped: Any, source: str, data: Data, config: DictConfig
) -> Forecast:
    """The forecast of a round in which `learner` trains a model of the architecture `shaped` on `data`, in a run of
    `config`."""
    hardware: Any = learner.hardware
    model, world = Model(shaped, adapter), hardware.devices * hardware.nodes
    budget = model.budget(hardware, learner.dropout)
    batches = planned(data.part, budget, seed=config.seed, epochs=1, batch_utterances=learner.batch_utterances)
    shown = [batches[at] for at in range(0, len(batches), -(-len(batches) // PACKED))]
    micros = [micro for step in shown for micro in step.micros]
    shares = [step.micro(rank, world) for step in shown for rank in range(world)]
    worst = max(shares, key=lambda share: max((micro.padded for micro in share), default=0))
    before = supervised(data.part)
    worst_batches = [collate(data.part, micro, before, budget.multiple) for micro in worst]
    largest = max(worst_batches, key=lambda batch: batch.tokens_BT.numel())
    packed = efficiency(micros, data.part)
    whole, trained = model.parameters()
    memory = predict(
        model, learner.optimizer, hardware, worst_batches, dropout=learner.dropout, average=learner.average
    )
    held = beside(config, learner, model, memory)
    return Forecast(
        data=data, model_source=source, parameters=whole, trained=trained,
        steps=-(-data.utterances // learner.batch_utterances), epochs=learner.epochs,
        packed=packed, scale=data.utterances / packed.utterances,
        micros=(min(map(len, shares)), max(map(len, shares))), world=world, rows=_shape(largest),
        supervised=len(largest.target_N),
        vocabulary=shaped.get_text_config().vocab_size,
        memory=replace(memory, beside=sum(held.values())), held=held, shaped=shaped, adapter=adapter,
    )  # fmt: skip


def _shape(batch: Batch) -> tuple[int, int]:
    rows, tokens = batch.tokens_BT.shape
    return rows, tokens


# --- in words
# ------------------------------------------------------------------------------------------------------------


def words(it: Forecast, learner: LightningLearner, config: DictConfig) -> Iterator[str]:
    """The batch arithmetic, a paragraph a line."""
    hardware: Any = learner.hardware
    yield f"Model: {it.parameters:,} parameters, of which {it.trained:,} are trained ({it.model_source})."
    yield f"Data of a round: {it.data.samples:,} samples with {it.data.utterances:,} utterances ({it.data.source})."
    if it.data.forks:
        yield f"Forks: {it.data.forks}. Each begins a sample of its own."
    steps = it.steps * it.epochs
    yield (
        f"Steps: {it.data.utterances:,} utterances in global batches of {learner.batch_utterances} are {it.steps:,} "
        f"optimiser steps "
        f"an epoch; {it.epochs} epoch{'s' * (it.epochs > 1)} of them are {steps:,}."
    )
    if it.data.first:
        yield _rounds(it, learner.batch_utterances, config.iterations * config.rounds, config.replay)
    if config.rounds > 1:
        yield (
            f"Rounds: an iteration has {config.rounds}; if they are alike, these are {config.rounds * steps:,} steps "
            "of one optimiser and one schedule."
        )
    yield _rates(learner, steps * config.rounds)
    for name, changes in sorted(OmegaConf.to_container(config.schedule, resolve=True).items()):  # type: ignore[union-attr]
        yield f"From {name} on: {', '.join(f'{key}={value}' for key, value in leaves(changes))}."
    one, each, packed, padded = (
        round(it.scale * count)
        for count in (
            it.packed.tokens_per_utterance,
            it.packed.tokens_per_sample,
            it.packed.tokens_packed,
            it.packed.tokens_padded,
        )
    )
    yield (
        f"Tokens of an epoch: {one:,} with a row for each utterance, {each:,} with one for each sample, {packed:,} "
        f"packed as trees "
        f"({one / packed:.1f} times fewer than the first), {padded:,} with padding ({it.packed.padding:.1%})."
    )
    yield from compared(config, learner, padded)
    least, most = it.micros
    count = f"{most}" if least == most else f"{least} to {most}"
    yield (
        f"A step on {it.world} rank{'s' * (it.world > 1)}: {padded / it.steps:,.0f} tokens in micro-batches of at most "
        f"{hardware.micro_tokens:,} (rows of at most {hardware.row_tokens:,}), {count} on each rank. The largest has "
        f"{it.rows[0]} rows "
        f"of {it.rows[1]:,} tokens, of which {it.supervised:,} are supervised."
    )
    if least == 0:
        share = 2 ** math.floor(math.log2(max(padded / it.steps / it.world, 1)))
        yield (
            f"Some ranks have nothing to do in some steps: about {padded / it.steps / it.world:,.0f} tokens a rank "
            f"are there, "
            f"so hardware.micro_tokens={share} hardware.row_tokens={share} would give work to all."
        )


def trained(it: Forecast, learner: LightningLearner, config: DictConfig) -> Tokens:
    """Tokens of learning in a mean iteration: steps over packed rows, padding included, and the passes before a round
    for the columns that the loss compares with."""
    padded, rounds, columns = it.scale * it.packed.tokens_padded, config.rounds, learner.loss.columns
    steps = it.steps * it.epochs * rounds
    if it.data.first and config.iterations:
        steps = _steps(it, learner.batch_utterances, config.iterations * rounds, config.replay) / config.iterations
    passes = ("old" in columns and config.old != RECORDED) + ("reference" in columns) + it.epochs * ("kl" in columns)
    share = steps / (it.steps * it.epochs)
    return Tokens(read=padded * passes * share, trained=padded * it.epochs * share)


def _steps(it: Forecast, batch: int, iterations: int, replay: int) -> int:
    """Optimiser steps of all rounds, which are alike but for replay."""
    rounds = [min(number, replay + 1) for number in range(1, iterations + 1)]
    return sum(-(-count * it.data.utterances // batch) * it.epochs for count in rounds)


def _rounds(it: Forecast, batch: int, iterations: int, replay: int) -> str:
    """What comes after the first round, which is the one that is planned."""
    every = _steps(it, batch, iterations, replay)
    before = f"{replay} rounds" if replay > 1 else "the round"
    again = f", from the second on with the samples of {before} before as well" if replay and iterations > 1 else ""
    return f"That is the first round; all {iterations} rounds are {every:,} steps{again}."


def _rates(learner: LightningLearner, steps: int) -> str:
    optimizer: Any = learner.optimizer
    rise = math.ceil(learner.warmup * steps)
    end = f"{optimizer.lr * learner.floor:g} at the end"
    after = {
        "constant": "stays",
        "linear": f"falls in a line to {end}",
        "cosine": f"falls along half a cosine to {end}",
    }
    start = (
        f"rises to {optimizer.lr:g} over the first {rise:,} steps ({learner.warmup:.0%})"
        if rise
        else f"begins at {optimizer.lr:g}"
    )
    clipped = f"gradients are clipped at {learner.clip:g}" if learner.clip else "gradients are not clipped"
    return f"Learning rate ({type(optimizer).__name__}): {start}, then {after[learner.schedule]}; {clipped}."


def table(it: Forecast, learner: LightningLearner) -> Table:
    """The memory of one device at its peak, by part."""
    hardware: Any = learner.hardware
    shown = Table(title=f"Memory of one device at its peak ({_moment(it.memory)})", title_justify="left")
    for name, style in (("part", ""), ("GiB", "right"), ("what it is", "")):
        shown.add_column(name, justify=style or "left")  # type: ignore[arg-type]
    for part in PARTS:
        shown.add_row(part, f"{getattr(it.memory, part) / GIB:.3f}", Text(_explained(part, it, learner)))
    shown.add_section()
    shown.add_row(
        "together",
        f"{it.memory.total / GIB:.3f}",
        "as torch.cuda.max_memory_allocated" if hardware.accelerator == "gpu" else "",
    )
    if hardware.accelerator == "gpu":
        extra = f"{SLACK - 1:.0%} for the allocator's blocks, {CONTEXT_GIB:g} GiB for driver and libraries"
        shown.add_row("needed", f"{it.memory.needed('gpu') / GIB:.3f}", extra)
    if it.memory.host:
        shown.add_row("host", f"{it.memory.host / GIB:.3f}", "of this rank, in host memory, where the optimiser works")
    shown.add_row("there is", f"{hardware.memory_gib:.3f}", f"hardware={hardware.name}")
    return shown


def _moment(memory: Memory) -> str:
    return "in forward and backward" if memory.moment == "backward" else "in the optimiser's step"


def _explained(part: str, it: Forecast, learner: LightningLearner) -> str:
    hardware, memory = learner.hardware, it.memory
    strategy = getattr(hardware, "strategy", "")
    shared = f", shared by {it.world} ranks" if strategy.startswith("fsdp") and it.world > 1 else ""
    shared += ", in host memory" if strategy == "fsdp_offload" else ""
    match part:
        case "weights":
            return f"{it.parameters:,} parameters ({hardware.precision}){shared}"
        case "gradients":
            return f"of {it.trained:,} parameters{shared}"
        case "optimizer":
            return f"what {type(learner.optimizer).__name__} keeps for them{shared}"
        case "activations":
            if memory.moment == "step":
                return "the step's own copies"
            kept = (
                "of each block its input, of one block all"
                if hardware.activation_checkpointing
                else "of every block all"
            )
            return f"{it.rows[0]} rows of {it.rows[1]:,} tokens: {kept}"
        case "logits":
            most = min(it.supervised, hardware.head_chunk)
            return (
                f"{most:,} tokens at a time × {it.vocabulary:,}; up to {memory.most_logits / GIB:.3f} GiB when there "
                f"is less of the rest"
            )
        case "beside":
            return listed(it.held) or "nothing: each model is gone before the next is loaded"
    return "blocks put together, gradients on their way" if it.world > 1 else "one rank sends nothing"


ADVICE = {
    "weights": "hold it in 4 bits (adapter=qlora), share it among more ranks (strategy fsdp), "
    "or keep it in host memory (strategy fsdp_offload)",
    "gradients": "train an adapter (adapter=lora or qlora), or share them among more ranks (strategy fsdp)",
    "optimizer": "train an adapter (adapter=lora or qlora), or share its numbers among more ranks (strategy fsdp)",
    "activations": "smaller hardware.micro_tokens and row_tokens",
    "logits": "a smaller hardware.head_chunk",
    "exchange": "train an adapter (adapter=lora or qlora)",
    "beside": "one round in an iteration (rounds=1), or adapters, which share their base (adapter=lora or qlora)",
}


def refusal(it: Forecast, learner: LightningLearner) -> str | None:
    """What is too large and what to change; None for a plan that fits."""
    hardware: Any = learner.hardware
    needed, there = it.memory.needed(hardware.accelerator), hardware.memory_gib * GIB
    if needed <= there:
        return None
    part = max(PARTS, key=lambda name: getattr(it.memory, name))
    advice = ADVICE[part]
    if part == "activations" and it.memory.moment == "backward" and not hardware.activation_checkpointing:
        advice = "hardware.activation_checkpointing=true, or " + advice
    if part == "activations" and it.memory.moment == "step":
        advice = ADVICE["optimizer"]
    return (
        f"this plan does not fit: a device needs {needed / GIB:.1f} GiB and has {there / GIB:g} (hardware.memory_gib). "
        f"The largest part are the {part} with {getattr(it.memory, part) / GIB:.1f} GiB: {advice}"
    )
