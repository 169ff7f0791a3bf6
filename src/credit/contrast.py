"""Preference pairs of a policy's own rollouts: right against wrong on the same question (DPO)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample, paired
from .base import Credited, Log, credited, logs
from .verdicts import Verdicts

Group: TypeAlias = tuple[str, str]  # scenario, seat


@dataclass(frozen=True, slots=True)
class Contrast:
    """Of each scenario and seat the log with the highest payoff against the one with the lowest, the first of each by
    match id; none where all are worth the same. For `parley.objectives.spin.Spin`, which on given pairs is DPO
    (arXiv:2305.18290), with the policy at the round's start as reference. Needs `play.group` of 2 or more.

    Of the better log the legal replies are supervised, of the worse one all of them. Observations are context: the
    published rows (ReinholdM/SPIN, convert_dpo_data) have them, and the line with the reward, in both texts.
    """

    @property
    def mix(self) -> int:
        """None: the pairs are the policy's own."""
        return 0

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        chosen = _extremes(found)
        sides: dict[Group, dict[bool, list[Sample]]] = {}
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            group = _group(log)
            best, worst = chosen[group]
            if log.episode.id not in (best, worst) or best == worst:
                table.append(log.verdict("all are worth the same" if best == worst else "neither best nor worst"))
                continue
            better = log.episode.id == best
            replies = log.replies(refused=not better)
            table.append(log.verdict("chosen" if better else "rejected", bool(replies)))
            sides.setdefault(group, {})[better] = log.samples({request: (log.score, 1.0) for request in replies})
            if len(sides[group]) == 2:
                pair = sides.pop(group)
                samples += paired(f"{best}/{log.seat}", pair[True], pair[False]) if all(pair.values()) else []
        return credited(samples, table)


def _group(log: Log) -> Group:
    return log.episode.scenario.id, log.seat


def _extremes(found: Iterable[Log]) -> dict[Group, tuple[str, str]]:
    """The match ids of the best and the worst log of each group; the same one twice where all are worth the same."""
    scores: dict[Group, list[tuple[float, str]]] = {}
    for log in found:
        name, score = log.episode.id, log.score
        best, worst = scores.setdefault(_group(log), [(score, name), (score, name)])
        scores[_group(log)] = [(score, name) if score > best[0] else best, (score, name) if score < worst[0] else worst]
    return {group: (best[1], worst[1]) for group, (best, worst) in scores.items()}
