"""Further fine-tuning (SFT) as a control for SPIN: trains on the real replies only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.episode import Episode
from ..data.sample import Sample
from .base import Credited, credited, logs
from .spin import by_demonstration
from .verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """The demonstrations of the scenarios that were played, each once: SPIN's real halves, without the generated ones.

    SPIN should beat this control: it sees the same texts for as many steps.
    """

    @property
    def mix(self) -> None:
        """None: all demonstrations; the scenarios that were played choose among them."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        real = by_demonstration(demonstrations)
        why = {True: "imitated", False: "no demonstration of this scenario"}
        played: dict[str, Verdict] = {}
        for log in logs(episodes, player):
            key = log.episode.scenario.id
            played[key] = log.verdict(why[key in real], key in real)
        return credited([each for key in sorted(played) for each in real.get(key, [])], played.values())
