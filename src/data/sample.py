"""What a learner is given: streams of token ids with supervised spans and their numbers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..games.base import Json, Message
from ..system.seeds import derive


@dataclass(frozen=True, slots=True)
class Utterance:
    """A supervised span [start, end) of a sample's token ids, and the numbers that credit gave it.

    `kind` tells objectives apart what they treat differently ("act", "sft"); `pair` and `side` (+1 real or chosen,
    -1 generated or rejected) join the two halves of a preference pair. `numbers` are further ones, by name, for an
    objective that names them.
    """

    start: int
    end: int
    reward: float = 1.0
    weight: float = 1.0
    kind: str = "act"
    pair: int | None = None
    side: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One stream of token ids [L]. `group` names samples that must never fall into different micro-batches.

    `logprobs` [sum of span lengths], where known, are the sampler's own raw log-probs, made by the version `policy`.
    `tokens` are further columns of a credit, by name: a float for each supervised token, as in `logprobs`.
    """

    id: str  # match id, seat and the stream's number
    token_ids: tuple[int, ...]
    utterances: tuple[Utterance, ...]
    group: str | None = None
    policy: str = ""
    logprobs: tuple[float, ...] | None = None
    tokens: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A chat to imitate: one seat's whole view. `weights` [messages] is the loss weight of each message, 0 for context.

    `logprob`, where known: log p in nats of what is to be imitated, under the source that wrote it. Chats that are not
    independent share a `cluster`. `meta` is what its source knows of it.
    """

    id: str
    messages: tuple[Message, ...]
    weights: tuple[float, ...]
    logprob: float | None = None
    cluster: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)


def chosen(name: str, view: Sequence[Message], replies: Container[str | None], cluster: str = "") -> Demonstration:
    """A seat's whole view as a chat in which the `replies` (requests) weigh 1 and everything else 0."""
    return Demonstration(name, tuple(view), tuple(float(each.request in replies) for each in view), cluster=cluster)


def decayed(replies: int, gamma: float) -> list[float]:
    """Shares of one reward for the 1st to the last reply, the last the largest; they sum to 1.

    R_j = gamma^(n-j) (1 - gamma) / (1 - gamma^n) (SPAG, arXiv:2404.10642, and its assign_rewards). With gamma = 0.8 and
    n = 3: 0.262, 0.328, 0.410.
    """
    powers = [gamma ** (replies - j) for j in range(1, replies + 1)]
    return [power / sum(powers) for power in powers]


def paired(name: str, real: Sequence[Sample], generated: Sequence[Sample]) -> list[Sample]:
    """A preference pair: the streams of `real` as side +1, those of `generated` as side -1, in the group `name` and
    with one pair number."""
    number = derive(0, name)
    named = [replace(sample, id=f"{name}/real/{at}" if at else f"{name}/real") for at, sample in enumerate(real)]
    sides = [*((sample, 1) for sample in named), *((sample, -1) for sample in generated)]
    return [
        replace(
            sample, group=name, utterances=tuple(replace(each, pair=number, side=side) for each in sample.utterances)
        )
        for sample, side in sides
    ]
