"""Training samples: streams of token ids with supervised spans and their numbers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..games.base import Json, Message
from ..system.seeds import derive


@dataclass(frozen=True, slots=True)
class Utterance:
    """A supervised span [start, end) of a sample's token ids, with credit's reward and weight.

    `kind` is "act" (sampled by the policy) or "sft" (mixed-in demonstration). `pair` and `side` (+1 real or chosen, -1
    generated or rejected) join the two halves of a preference pair. `numbers` holds a credit's own columns, by name.
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
    """One stream of token ids [L]. Samples of one `group` are never split over micro-batches.

    `logprobs` [sum of span lengths], if known, are the raw log-probs in nats of the sampler, the version `policy`.
    `tokens` holds a credit's own token columns, by name: one float per supervised token, as in `logprobs`.
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

    `logprob`, if known: log p in nats of the imitated text under its source. Chats that are not independent share a
    `cluster`. `meta` holds the source's further fields.
    """

    id: str
    messages: tuple[Message, ...]
    weights: tuple[float, ...]
    logprob: float | None = None
    cluster: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)


def chosen(name: str, view: Sequence[Message], replies: Container[str | None], cluster: str = "") -> Demonstration:
    """A seat's whole view as a chat with weight 1 on the replies to the requests `replies` that say something, and 0 on
    the rest."""
    weights = (float(each.request in replies and bool(each.content.strip())) for each in view)
    return Demonstration(name, tuple(view), tuple(weights), cluster=cluster)


def decayed(replies: int, gamma: float) -> list[float]:
    """Splits a reward of 1 over the first to the last reply, the last having the largest share.

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


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix, as of two streams."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])
