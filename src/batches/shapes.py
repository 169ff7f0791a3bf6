"""Dummy samples of given lengths, for planning before there is data. Their tokens are meaningless.

chats      one stream: prompt, reply, context, reply, …
branches   each reply branches off the history (the prompt and the replies so far): instruction, reply (SPAG)
pairs      every reply answers the prompt, and all replies form one group (SPIN, DPO)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

from ..data.sample import Sample, Utterance
from ..system.files import InputError
from ..system.seeds import rng

Layout = Literal["chats", "branches", "pairs"]
WORDS = 30_000  # vocabulary of the dummy tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """A sample shape, with lengths in tokens, repeated for `groups` groups.

    prompt       before the first reply; `prompts` is the number of different prompts, 0 for a new one in each group
    replies      length of each reply, its terminator included
    between      context between two replies (messages of others, tags)
    instruction  length of a branch before its reply
    """

    layout: Layout
    groups: int
    prompt: int
    replies: tuple[int, ...]
    between: int = 0
    instruction: int = 0
    prompts: int = 0

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise InputError(
                f"stated.samples: layout is {self.layout!r}, expected one of {', '.join(get_args(Layout))}"
            )
        if (
            min(self.groups, self.prompt, *self.replies) < 1
            or not self.replies
            or min(self.between, self.instruction, self.prompts) < 0
        ):
            raise InputError(
                f"stated.samples: {self}: groups, prompt and every reply must be at least 1, the others at least 0"
            )

    @property
    def utterances(self) -> int:
        """Of all groups."""
        return self.groups * len(self.replies)

    def group(self, name: str, number: int) -> list[Sample]:
        """The samples of one group; tokens depend only on the number."""
        own = rng(0, name, number)
        text = rng(0, name, "prompt", number % self.prompts) if self.prompts else own
        prompt = tuple(text.choices(range(WORDS), k=self.prompt))
        replies = [tuple(own.choices(range(WORDS), k=length)) for length in self.replies]
        between = [tuple(own.choices(range(WORDS), k=self.between)) for _ in self.replies]
        if self.layout == "pairs":
            return [
                _answer(f"{name}/{number}/{at}", prompt, reply, f"{name}/{number}") for at, reply in enumerate(replies)
            ]
        parts = [segment for pair in zip(replies, between, strict=True) for segment in pair]
        if self.layout == "branches":
            histories = list(accumulate(parts, initial=prompt))[:-1:2]
            instruction = [tuple(own.choices(range(WORDS), k=self.instruction)) for _ in replies]
            return [
                _answer(f"{name}/{number}/{at}", history + extra, reply)
                for at, (history, extra, reply) in enumerate(zip(histories, instruction, replies, strict=True))
            ]
        ends = list(accumulate(map(len, parts), initial=len(prompt)))
        spans = tuple(Utterance(start, end) for start, end in zip(ends[:-1:2], ends[1::2], strict=True))
        return [Sample(f"{name}/{number}", prompt + tuple(token for part in parts for token in part), spans)]


def _answer(id: str, prompt: tuple[int, ...], reply: tuple[int, ...], group: str | None = None) -> Sample:
    return Sample(id, prompt + reply, (Utterance(len(prompt), len(prompt) + len(reply)),), group)


def draw(shapes: Sequence[Shape], share: float = 1.0) -> Iterator[Sample]:
    """Samples of the given share of each shape's groups, at least one group each."""
    for at, shape in enumerate(shapes):
        for number in range(max(1, round(share * shape.groups))):
            yield from shape.group(f"shape_{at}", number)
