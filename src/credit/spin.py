"""SPIN's credit: preference pairs of a demonstration (chosen) and the policy's own reply (rejected)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.episode import Episode
from ..data.sample import Sample, paired
from .base import Credited, credited, logs
from .verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class SpinPairs:
    """Real against generated (SPIN, arXiv:2401.01335): a demonstration and the policy's own reply to the same prompt.

    A demonstration belongs to the match whose scenario has its id. Both sides get one group and one pair number (unique
    over iterations, so that a window of several can be trained on together), side +1 for the real one, -1 for the
    generated one. A reply that equals the demonstration teaches nothing (its margin is 0) and is left out, which the
    published code does not do; so is a pair whose prompts differ in a token, which that code trains on by mistake.
    """

    @property
    def mix(self) -> None:
        """Every demonstration is wanted: pairing chooses."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        real = {sample.id: sample for sample in demonstrations}
        samples: list[Sample] = []
        table = Verdicts()
        for log in logs(episodes, player):
            generated = log.samples({request: (log.score, 1.0) for request in log.replies()})
            why = _unpaired(real.get(log.episode.scenario.id), generated)
            table.append(log.verdict(why or "paired", why is None))
            if why is None:
                samples += paired(f"{log.episode.id}/{log.seat}", real[log.episode.scenario.id], generated)
        return credited(samples, table)


def _unpaired(real: Sample | None, generated: Sequence[Sample]) -> str | None:
    """Why the two do not form a pair; None if they do."""
    if real is None or not real.utterances:
        return "no demonstration of this scenario"
    if not generated:
        return "no legal reply of this policy whose token ids are known"
    prompts = {sample.token_ids[: sample.utterances[0].start] for sample in (real, generated[0])}
    if len(prompts) > 1:
        return "the prompts differ"
    return "identical" if _said([real]) == _said(generated) else None


def _said(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids[utterance.start : utterance.end] for sample in samples for utterance in sample.utterances]
