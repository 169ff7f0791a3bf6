"""Further fine-tuning: what is real is imitated, and nothing of the play is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..episode import Episode
from ..sample import Sample
from .base import Credited, credited, logs


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """The demonstrations of the scenarios that were played, each once: SPIN's real halves, without the generated ones.

    So much further fine-tuning is what SPIN has to be held against: the same texts, and as many steps.
    """

    @property
    def mix(self) -> None:
        """Every demonstration is wanted: the play chooses."""

    def __call__(self, episodes: Sequence[Episode], player: str, demonstrations: Sequence[Sample] = ()) -> Credited:
        real = {sample.id: sample for sample in demonstrations if sample.utterances}
        played = {log.episode.scenario.id: log for log in logs(episodes, player)}
        why = {True: "imitated", False: "no demonstration of this scenario"}
        table = [log.verdict(why[key in real], key in real) for key, log in played.items()]
        return credited([real[key] for key in sorted(played) if key in real], table)
