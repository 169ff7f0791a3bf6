"""The interface of learners (trainers)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ..data.sample import Demonstration, Sample
from ..models.snapshot import Snapshot
from ..objectives.base import Objective

Report: TypeAlias = Callable[[Mapping[str, float]], None]  # gets each step's step, steps, loss, tokens
Lessons: TypeAlias = Sequence[Sample] | Sequence[Demonstration]


class Learner(Protocol):
    """Trains a snapshot into the next one. Independent of the game."""

    @property
    def reads(self) -> Literal["tokens", "chats"]:
        """The kind of samples that `learn` takes: token ids, or chats with a weight for each message."""

    @property
    def loss(self) -> Objective:
        """The objective (loss) to minimise."""

    @property
    def sessions(self) -> bool:
        """Whether it can train round by round, in a session (see `parley.learners.session`)."""

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
        """Trains `snapshot` on `samples` (of the kind that `reads` names); returns the new snapshot, named `name`, and
        the metrics.

        `reference` is the fixed model that the loss compares with, if it does. All files are written to `folder`. A
        call that was killed is repeated with the same arguments and the same folder.
        """
