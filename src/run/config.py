"""The shape of a composed config, run directories, and what a resumed run may change.

Dataclasses type the root and the hardware profile. A node with a `_target_` is typed by its target's own signature, so
a stranger adds a game, an objective or a tracker with one file and one YAML and edits nothing of ours. No value is set
here: `conf/` holds them all.
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
    """What a user got wrong: shown as a message, without a traceback."""


@dataclass
class Sampling:
    temperature: Amount  # 0 is greedy
    top_p: Share  # 1 truncates nothing
    top_k: Whole  # 0 truncates nothing
    max_tokens: Count  # of one reply; a game may ask for fewer


@dataclass
class Play:
    scenarios: Count  # drawn anew for each iteration
    group: Count  # matches of one scenario
    branches: Whole  # continuations of each match from one of its turns
    in_flight: Count  # matches at a time, in evaluation too
    sampling: Sampling


@dataclass
class Eval:
    start_name: str  # what the start is called as an opponent
    scenarios: Count  # of the test split, sampled and against opponents
    # sampled matches of each of these, against itself and in each seat against the start and the previous snapshot
    group: Count
    final: (
        Count | None
    )  # the same against the start, once more, for the start and the kept snapshot alone; null: group is enough
    greedy: Count | None  # of the test split, played greedily; null for every one
    validation: Count  # of the validation split, on which the kept snapshot is chosen
    validation_group: (
        Count | None
    )  # matches of each of these in each seat against the start, where that is what counts; null: group
    sampling: Sampling
    opponents: list[str]  # scripts, besides the start
    transcripts: Whole  # of each iteration, in the report
    report: Share  # most of the run's CPU time for writing the report while it runs


@dataclass
class Opponent:
    """A language model that may be seated under a name of its own: one of `path` and `model`."""

    path: str | None = None  # a run's directory (the snapshot that it kept), a model folder, or an adapter's
    base: str | None = None  # the model folder that an adapter stands on
    model: str | None = None  # what a server has under this name
    policy: str | None = None  # which policy of that run; null for its first
    backend: Any = None  # a node, as of the group backend; null for the learner's own


@dataclass
class Imitate:
    matches: Whole  # demonstrations that the scripts play
    validation: Whole  # more of them, held out
    players: list[str]  # scripts that demonstrate
    limit: Count | None  # most matches of these, and most dialogues of a file; null for all
    first: (
        bool  # before the first iteration; false: the model can do it already, and credit alone is given demonstrations
    )
    partner_weight: Amount  # loss weight of the other seat's words
    mixed: str  # what credit may mix into a round: the demonstrations whose ids begin so
    loss: Any  # an objective
    learner: dict[str, Any] = field(default_factory=dict)  # laid over the learner node


@dataclass
class Hardware:
    name: str
    accelerator: Annotated[str, OneOf(("cpu", "gpu"))]
    devices: Count  # of one node
    nodes: Count
    strategy: Annotated[
        str, OneOf(("single", "ddp", "fsdp", "fsdp_offload"))
    ]  # ddp: the whole model in every process; fsdp: shards of it; fsdp_offload: which lie in host memory
    precision: Annotated[str, OneOf(("32-true", "bf16-true", "bf16-mixed"))]
    threads: Count  # of one process
    micro_tokens: Count  # tokens of a micro-batch
    row_tokens: Count  # tokens of a packed row
    head_chunk: Count  # supervised tokens whose logits exist at a time
    activation_checkpointing: bool
    memory_gib: Amount  # of one device
    adapter: str | None = None  # the only option of the group adapter that this profile is for


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
    """Tokens of one match, over its seats of language models."""

    read: Amount  # of prompts, each token once; 0: not known
    written: Amount  # sampled


@dataclass
class StatedSpeed:
    """Tokens a second of one device; null: not known."""

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
    policies: dict[str, Any] = field(default_factory=dict)  # name -> what it has of its own of the nodes OWN
    players: dict[str, str] = field(default_factory=dict)
    schedule: dict[str, Any] = field(
        default_factory=dict
    )  # iter_NNN -> what changes of objective and learner from then on
    opponents: dict[str, Any] = field(default_factory=dict)  # name -> Opponent
    adapter: Any = None  # null or {} for none
    data: Any = None
    scorer: Any = None
    logger: Any = None
    benchmark: Any = None
    guards: Any = None
    league: Any = None
    table: Any = None  # what task=table serves


def register() -> None:
    """Makes the schema and the resolvers known to Hydra."""
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
    """The values at the ends of nested mappings, with their dotted keys."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


# --- reading the config ----------------------------------------------------------------------------------------------


def imitation_learner(config: DictConfig) -> DictConfig:
    """The learner node as imitation uses it: `imitate.learner` laid over it."""
    base, over = (OmegaConf.to_container(node, resolve=True) for node in (config.learner, config.imitate.learner))
    return DictConfig(overlaid(base, over))


def scheduled(config: DictConfig) -> dict[int, dict[str, Any]]:
    """The nodes objective and learner as they hold from an iteration on, for 0 and each that `schedule` names: laid
    over what held before."""
    held = {node: OmegaConf.to_container(config[node], resolve=True) for node in SCHEDULED}
    found = {0: held}
    for name, over in sorted(OmegaConf.to_container(config.schedule, resolve=True).items()):  # type: ignore[union-attr]
        found[int(str(name).removeprefix("iter_"))] = held = overlaid(held, over)
    return found


def policies(config: DictConfig) -> dict[str, dict[str, Any]]:
    """What each policy has of its own, by name; one policy that has nothing where `policies` names none."""
    named = OmegaConf.to_container(config.get("policies") or OmegaConf.create({}), resolve=True) or {ONLY: {}}
    return {str(name): own or {} for name, own in named.items()}  # type: ignore[union-attr]


def judge(config: DictConfig) -> tuple[str, str]:
    """(policy, path) of the figure that a run is judged by: `attacker.sampled.score` names the policy, `sampled.score`
    is the first one's."""
    names, (first, _, rest) = list(policies(config)), str(config.metric).partition(".")
    return (first, rest) if first in names else (names[0], str(config.metric))


def metric_name(config: DictConfig) -> str:
    """The name of the metric, without what it is taken from: win_rate of versus.start.win_rate, deal.score of
    sampled.deal.score."""
    part, *name = judge(config)[1].split(".")
    return ".".join(name[part.startswith("versus") :])


ONLY = "learner"
"""The policy of a run that names none."""
OWN = ("adapter", "objective", "learner")
"""The nodes that a policy may have of its own."""


SCHEDULED = ("objective", "learner")
"""The nodes that `schedule` may change."""


def overlaid(base: Any, over: Any) -> Any:
    """`over` laid over `base`, key by key; a node that names its own `_target_` replaces the other whole."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping) or "_target_" in over:
        return over
    return {**base, **{key: overlaid(base.get(key), value) for key, value in over.items()}}


def use_threads(config: DictConfig) -> None:
    """Sets how libraries that are imported from now on use threads and memory."""
    os.environ["OMP_NUM_THREADS"] = str(config.hardware.threads)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's tensors in huge pages: fresh ones cost a CPU less
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


register()
