"""The schema of a composed config, and functions that read it.

Dataclasses type the root and the hardware profile. A node with a `_target_` is typed by its target's signature, so that
users add a game, an objective or a tracker with one Python and one YAML file. All values are in `conf/`, none here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from ..system.bounds import Amount, Count, OneOf, Positive, Share, Whole


class ConfigError(CompactHydraException):
    """A user's mistake in the config: shown as a message, without a traceback."""


@dataclass
class Sampling:
    temperature: Amount  # 0 is greedy
    top_p: Share  # 1: no truncation
    top_k: Whole  # 0: no truncation
    max_tokens: Count  # longest reply; a game may set a lower limit


@dataclass
class Play:
    scenarios: Count  # redrawn for each iteration
    group: Count  # matches of one scenario
    branches: Whole  # branches of each match from one of its turns
    in_flight: Count  # open matches at a time, also in evaluation
    sampling: Sampling


@dataclass
class Eval:
    start_name: str  # name of the start as an opponent
    scenarios: Count  # of the test split, sampled and against opponents
    # sampled matches per test scenario: in self-play, and in each seat against the start and the previous snapshot
    group: Count
    final: (
        Count | None
    )  # the same again against the start, only for the start and the kept snapshot; null: no further matches
    greedy: Count | None  # scenarios of the test split for greedy play; null for all
    validation: Count  # scenarios of the validation split, which chooses the kept snapshot
    validation_group: (
        Count | None
    )  # matches per validation scenario and seat against the start, if the metric needs them; null: group
    sampling: Sampling
    opponents: list[str]  # scripts, besides the start
    transcripts: Whole  # transcripts per iteration, in the report
    report: Share  # maximum share of the run's CPU time for writing reports during the run


@dataclass
class Opponent:
    """A language model as a named player: either `path` or `model`."""

    path: str | None = None  # a run's directory (its kept snapshot), a model folder, or an adapter folder
    base: str | None = None  # the model folder of an adapter's base
    model: str | None = None  # name of a model on a server
    policy: str | None = None  # which policy of that run; null for its first
    backend: Any = None  # a node of the group backend; null for the learner's own


@dataclass
class Imitate:
    matches: Whole  # matches that scripts play as demonstrations
    validation: Whole  # further ones, held out
    players: list[str]  # scripts that demonstrate
    limit: Count | None  # maximum matches, and maximum dialogues of a file; null for all
    first: bool  # imitate before the first iteration; false: demonstrations are only for credit
    partner_weight: Amount  # loss weight of the other seat's words
    mixed: str  # prefix of the ids of demonstrations that credit may mix into a round
    loss: Any  # an objective
    learner: dict[str, Any] = field(default_factory=dict)  # overrides of the learner node


@dataclass
class Hardware:
    name: str
    accelerator: Annotated[str, OneOf(("cpu", "gpu"))]
    devices: Count  # per node
    nodes: Count
    strategy: Annotated[
        str, OneOf(("single", "ddp", "fsdp", "fsdp_offload"))
    ]  # ddp: the whole model in every process; fsdp: shards of it; fsdp_offload: which lie in host memory
    precision: Annotated[str, OneOf(("32-true", "bf16-true", "bf16-mixed"))]
    threads: Count  # per process
    micro_tokens: Count  # maximum tokens of a micro-batch
    row_tokens: Count  # maximum tokens of a packed row
    head_chunk: Count  # supervised tokens whose logits are in memory at a time
    activation_checkpointing: bool
    memory_gib: Amount  # per device
    adapter: str | None = None  # the only option of the group adapter for this profile


@dataclass
class Lengths:
    """Lengths in tokens, as `parley.batches.shapes.Shape` takes them."""

    layout: Annotated[str, OneOf(("chats", "branches", "pairs"))]
    groups: Count
    prompt: Count
    replies: list[int]
    between: Whole = 0
    instruction: Whole = 0
    prompts: Whole = 0


@dataclass
class StatedMatch:
    """Tokens of one match, summed over the seats of language models."""

    read: Amount  # prompt tokens, each counted once; 0: unknown
    written: Amount  # sampled


@dataclass
class StatedSpeed:
    """Tokens per second of one device; null: unknown."""

    prefill: Positive | None
    decode: Positive | None
    train: Positive | None


@dataclass
class Stated:
    model: str | None
    samples: list[Lengths]
    source: str
    match: StatedMatch
    speed: StatedSpeed


@dataclass
class Config:
    """The root. Nodes typed Any are built from their `_target_`."""

    name: str
    tags: list[str]
    seed: int
    iterations: Whole
    rounds: Count
    start: Annotated[str, OneOf(("previous", "base"))]
    replay: Whole
    keep: Count | None
    old: str
    reference: str
    magnet: Count
    resume: str
    run: str | None
    match: str | None
    runs: list[str]
    ratings: list[str]
    metric: str
    task: Any
    game: Any
    model: Any
    backend: Any
    objective: Any
    learner: Any
    play: Play
    eval: Eval
    imitate: Imitate
    hardware: Hardware
    stated: Stated
    policies: dict[str, Any] = field(default_factory=dict)  # name -> own versions of the nodes in OWN
    players: dict[str, str] = field(default_factory=dict)
    schedule: dict[str, Any] = field(
        default_factory=dict
    )  # iter_NNN -> overrides of objective and learner from then on
    opponents: dict[str, Any] = field(default_factory=dict)  # name -> Opponent
    adapter: Any = None  # null or {} for none
    data: Any = None
    scorer: Any = None
    logger: Any = None
    benchmark: Any = None
    guards: Any = None
    league: Any = None
    table: Any = None  # options of task=table


def register() -> None:
    """Registers the schema and the resolvers with Hydra."""
    schema = OmegaConf.structured(Config)
    schema.imitate = OmegaConf.structured(Imitate)
    for free in (
        schema.policies,
        schema.players,
        schema.opponents,
        schema.imitate.learner,
        schema.schedule,
    ):  # any key, as in players.first=human
        OmegaConf.set_struct(free, False)
    ConfigStore.instance().store("schema", schema)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaf values of nested mappings, with their dotted keys."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


# --- reading the config ----------------------------------------------------------------------------------------------


def imitation_learner(config: DictConfig) -> DictConfig:
    """The learner node of imitation, overridden by `imitate.learner`."""
    base, over = (OmegaConf.to_container(node, resolve=True) for node in (config.learner, config.imitate.learner))
    return DictConfig(overlaid(base, over))


def scheduled(config: DictConfig) -> dict[int, dict[str, Any]]:
    """The nodes objective and learner from an iteration on, for 0 and each iteration in `schedule`, which overrides the
    previous values."""
    held = {node: OmegaConf.to_container(config[node], resolve=True) for node in SCHEDULED}
    found = {0: held}
    for name, over in sorted(OmegaConf.to_container(config.schedule, resolve=True).items()):  # type: ignore[union-attr]
        found[int(str(name).removeprefix("iter_"))] = held = overlaid(held, over)
    return found


def policies(config: DictConfig) -> dict[str, dict[str, Any]]:
    """Each policy's own nodes, by name; a single policy without any if `policies` is empty."""
    named = OmegaConf.to_container(config.get("policies") or OmegaConf.create({}), resolve=True) or {ONLY: {}}
    return {str(name): own or {} for name, own in named.items()}  # type: ignore[union-attr]


def judge(config: DictConfig) -> tuple[str, str]:
    """(policy, path) of the metric of a run: `attacker.sampled.score` names the policy, `sampled.score` means the first
    one."""
    names, (first, _, rest) = list(policies(config)), str(config.metric).partition(".")
    return (first, rest) if first in names else (names[0], str(config.metric))


def metric_name(config: DictConfig) -> str:
    """The name of the metric without its evaluation: win_rate of versus.start.win_rate, deal.score of
    sampled.deal.score."""
    part, *name = judge(config)[1].split(".")
    return ".".join(name[part.startswith("versus") :])


ONLY = "learner"
"""The name of the only policy of a run that names none."""
OWN = ("adapter", "objective", "learner")
"""The nodes that a policy may override."""


SCHEDULED = ("objective", "learner")
"""The nodes that `schedule` may override."""


def overlaid(base: Any, over: Any) -> Any:
    """`base` overridden by `over`, key by key; a node with its own `_target_` replaces the other entirely."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping) or "_target_" in over:
        return over
    return {**base, **{key: overlaid(base.get(key), value) for key, value in over.items()}}


def use_threads(config: DictConfig) -> None:
    """Sets the threads and memory settings of libraries imported later."""
    os.environ["OMP_NUM_THREADS"] = str(config.hardware.threads)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: cheaper allocations on a CPU
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


register()
