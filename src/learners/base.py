"""What the loop asks of a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ..data.sample import Demonstration, Sample
from ..models.snapshot import Snapshot
from ..objectives.base import Objective

Report: TypeAlias = Callable[[Mapping[str, float]], None]  # is told the figures of each step: step, steps, loss, tokens
Lessons: TypeAlias = Sequence[Sample] | Sequence[Demonstration]


class Learner(Protocol):
    """Makes the next snapshot. It knows no game."""

    @property
    def reads(self) -> Literal["tokens", "chats"]:
        """What `learn` is given: samples of token ids, or chats with a weight for each message."""

    @property
    def loss(self) -> Objective:
        """What it minimises."""

    @property
    def sessions(self) -> bool:
        """Whether it can be taught round by round, in a session (see `parley.learners.session`)."""

    def learn(
        self,
        samples: Any,
        snapshot: Snapshot,
        folder: Path,
        *,
        seed: int,
        name: str,
        reference: Snapshot | None = None,
        progress: Report | None = None,
    ) -> tuple[Snapshot, dict[str, Any]]:
        """The snapshot after training `snapshot` on `samples` (`Lessons`, as `reads` says), and what happened on the
        way.

        `reference` is the fixed model that the loss compares with, where it does. `folder` receives what it makes.
        A call that was cut off is made again with the same arguments and the same
        folder.
        """
