"""Conversations of a file or folder: to imitate, as preference pairs, or as logs from which credit selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from ...games.base import Game, Json, Message
from ...games.splits import belongs, fine
from ...system.bounds import Amount, PartShare
from ...system.files import InputError
from ..episode import Episode
from ..formats.conversations import Format, read
from ..formats.messages import Log
from ..formats.skipping import skipped
from ..imported import episode
from ..sample import Demonstration, Sample, paired

SWAPPED: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system", "user": "assistant", "assistant": "user",
}  # fmt: skip


@dataclass(frozen=True)
class Conversations:
    """A data source: the chats of `path` (see `formats.conversations`), for any game.

    where           meta that a row must have, such as {outcome: success, game: [taboo, wordle]}; a list allows any of
                    its values
    speaker         whom to imitate: assistant, or user (swaps the two, for a user model)
    partner_weight  loss weight of the other side's messages; the speaker's have 1
    merge           whether to join consecutive messages of one role, by an empty line
    validation      share of held-out rows, split by the meta key scenario, else match, else by row

    Empty and rejected replies are not imitated; chats without other replies are left out, and a warning counts them.
    InputError names the file and the invalid row, or says that no row is as `where` says; FileNotFoundError a missing
    path.
    """

    path: str
    format: Format = "auto"
    where: Mapping[str, Json] | None = None
    speaker: Literal["assistant", "user"] = "assistant"
    partner_weight: Amount = 0.0
    merge: bool = False
    validation: PartShare = 0.0

    def __post_init__(self) -> None:
        if not Path(self.path).exists():
            raise FileNotFoundError(f"{self.path}: there is no such file or folder: give chats as data.path")

    @property
    def files(self) -> dict[str, str]:
        """The files it reads, by name."""
        return {"path": self.path}

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats of a split, in the order of the rows; of a pair the better side."""
        left_out = rows = 0
        for name, log in self._logs(split):
            demo = self._weighed(log.demonstration(name))
            rows += 1
            if any(
                weight and message.role == "assistant"
                for weight, message in zip(demo.weights, demo.messages, strict=True)
            ):
                yield demo
            else:
                left_out += 1
        skipped(self.path, left_out, rows, "nothing to imitate: no reply, or only empty or rejected ones")

    def samples(self, render: Callable[[Demonstration], Sample]) -> list[Sample]:
        """The pairs as samples: side +1 the better one, side -1 the other. Pairs with an empty side or equal sides are
        left out, and a warning counts them. InputError for rows that are no pairs."""
        if self.speaker == "user":
            raise InputError("data.speaker=user: pairs compare replies of the assistant; leave it out")
        found: list[Sample] = []
        rows = left_out = 0
        for name, log in self._logs("train"):
            if not log.generated:
                raise InputError(
                    f"{self.path}: row {name} is no pair, expected real and generated, or chosen and rejected"
                )
            sides = log.messages, log.generated
            rows += 1
            if sides[0] == sides[1] or not all(side[-1].content.strip() for side in sides):
                left_out += 1
                continue
            found += paired(name, *_rendered(name, sides, render))
        skipped(self.path, left_out, rows, "a side is empty, or both are equal")
        if not found:
            raise InputError(f"{self.path}: no pair is left of {rows} rows")
        return found

    def matches(self, player: str) -> Iterator[tuple[Episode, Mapping[str, Sequence[Message]]]]:
        """The logs as matches of `player`, and the view of each seat; consecutive logs of one file and match are
        joined."""
        for _, group in groupby(self._logs("train"), key=_match):
            yield episode(list(group), player)

    def _logs(self, split: str) -> Iterator[tuple[str, Log]]:
        """The rows of a split that pass `where`, after `speaker` and `merge`."""
        rows = wanted = 0
        for name, log in read(self.path, self.format):
            cluster = str(log.meta.get("scenario") or log.meta.get("match") or name)
            rows += 1
            if self._wanted(log):
                wanted += 1
                if belongs(fine(0, cluster), self.validation, 0.0) == split:
                    yield name, self._turned(log)
        if rows and not wanted:
            raise InputError(f"{self.path}: none of {rows} rows is as data.where says: {dict(self.where or {})}")

    def _wanted(self, log: Log) -> bool:
        return all(
            log.meta.get(key) in (value if isinstance(value, list | tuple) else (value,))
            for key, value in (self.where or {}).items()
        )

    def _turned(self, log: Log) -> Log:
        if self.speaker == "user":
            log = replace(log, messages=_swapped(log.messages), rejected=(), generated=_swapped(log.generated))
        return merged(log) if self.merge else log

    def _weighed(self, demo: Demonstration) -> Demonstration:
        weights = (
            self.partner_weight if message.role == "user" else weight
            for message, weight in zip(demo.messages, demo.weights, strict=True)
        )
        return replace(demo, weights=tuple(weights))


def merged(log: Log) -> Log:
    """The chat, or both sides of a pair, with consecutive messages of one role joined; a joined reply is rejected if
    one of its parts is."""
    groups = [list(group) for _, group in groupby(enumerate(log.messages), key=lambda each: each[1].role)]
    rejected = tuple(at for at, group in enumerate(groups) if {place for place, _ in group} & {*log.rejected})
    return replace(log, messages=_joined(log.messages), rejected=rejected, generated=_joined(log.generated))


def _joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    groups = groupby(messages, key=lambda message: message.role)
    return tuple(Message(role, "\n\n".join(message.content for message in group)) for role, group in groups)


def _match(row: tuple[str, Log]) -> tuple[str, Json]:
    """The file and the match of a row; a row without a match is one of its own."""
    name, log = row
    return name.rpartition("/")[0], log.meta.get("match") or name


def _swapped(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(Message(SWAPPED[message.role], message.content) for message in messages)


def _rendered(
    name: str, sides: Sequence[tuple[Message, ...]], render: Callable[[Demonstration], Sample]
) -> list[list[Sample]]:
    """Both sides of a pair tokenized, each with its last message supervised."""
    return [
        [render(Demonstration(f"{name}/{which}", side, (*(0.0 for _ in side[1:]), 1.0)))]
        for which, side in zip(("real", "generated"), sides, strict=True)
    ]
