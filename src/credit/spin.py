"""SPIN's credit: pairs of a demonstration and the policy's reply to the same prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..data.episode import Episode
from ..data.sample import Sample, paired
from .base import Credited, credited, logs
from .verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class SpinPairs:
    """Real against generated (SPIN, arXiv:2401.01335): a demonstration and the policy's own rollout of the same
    scenario, which may have many turns. All of the policy's replies count, including illegal and cut ones. Messages of
    others (observations, the question) are context on both sides.

    A demonstration belongs to the match whose scenario has its id. Both sides get one group and one pair number (unique
    over iterations, so that a window of several can be trained on together), side +1 for the real one, -1 for the
    generated one. Unlike the published code, this leaves out a rollout that equals the demonstration (its margin is 0),
    and a pair whose first prompts differ in a token.

    only   rollouts to pair: all, or failures (payoff not above 0)
    """

    only: Literal["all", "failures"] = "all"

    def __post_init__(self) -> None:
        if self.only not in ("all", "failures"):
            raise ValueError(f"only is {self.only!r}, expected all or failures")

    @property
    def mix(self) -> None:
        """None: all demonstrations; pairing chooses among them."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        real = by_demonstration(demonstrations)
        samples: list[Sample] = []
        table = Verdicts()
        for log in logs(episodes, player):
            generated = log.samples({request: (log.score, 1.0) for request in log.replies(refused=True)})
            own = real.get(log.episode.scenario.id, [])
            succeeded = self.only == "failures" and log.score > 0
            why = "no failure" if succeeded else _unpaired(own, generated)
            table.append(log.verdict(why or "paired", why is None))
            if why is None:
                samples += paired(f"{log.episode.id}/{log.seat}", own, generated)
        return credited(samples, table)


def by_demonstration(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Maps a demonstration's id to its streams, in order: one, or several if the template forks (`<id>/0`,
    `<id>/1`)."""
    found: dict[str, list[Sample]] = {}
    names = {sample.id for sample in samples}
    for sample in samples:
        if sample.utterances:
            whole, _, number = sample.id.rpartition("/")
            forked = number.isdecimal() and whole not in names
            found.setdefault(sample.id, []).append(sample)
            if forked:
                found.setdefault(whole, []).append(sample)
    return found


def _unpaired(real: Sequence[Sample], generated: Sequence[Sample]) -> str | None:
    """The reason why the two form no pair; None if they do."""
    if not real:
        return "no demonstration of this scenario"
    if not generated:
        return "no reply of this policy whose token ids are known"
    prompts = {sample.token_ids[: sample.utterances[0].start] for sample in (real[0], generated[0])}
    if len(prompts) > 1:
        return "the prompts differ"
    return "identical" if _said(real) == _said(generated) else None


def _said(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids[utterance.start : utterance.end] for sample in samples for utterance in sample.utterances]
