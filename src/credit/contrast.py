"""Preference pairs from a policy's own play (DPO): better against worse log of one scenario, or of one turn."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample, paired
from .base import Credited, Log, credited, logs
from .verdicts import Verdicts

Group: TypeAlias = tuple[str, str]  # a scenario, or a match and a number of its turns; seat
ELSEWHERE = "its seat does not speak where a match branched"


@dataclass(frozen=True, slots=True)
class Contrast:
    """Pairs each group's log of the highest payoff with the one of the lowest, ties broken by match id; no pair if all
    payoffs are equal. For `parley.objectives.spin.Spin`, which on given pairs is DPO (arXiv:2305.18290), with the
    policy at the round's start as reference.

    within   scenario: the logs of one scenario and seat (needs `play.group` of 2 or more). turn: a match and its
             branches from one turn, of the seat that spoke there (needs `play.branches`), so that both sides have the
             same history; that reply and what follows is supervised

    The better log's legal replies are supervised, and all replies of the worse log. Observations are context; the
    published rows (ReinholdM/SPIN, convert_dpo_data) have them, and the line with the reward, in both texts.
    """

    within: Literal["scenario", "turn"] = "scenario"

    def __post_init__(self) -> None:
        if self.within not in ("scenario", "turn"):
            raise ValueError(f"within is {self.within!r}, expected scenario or turn")

    @property
    def mix(self) -> int:
        """None: the pairs are the policy's own."""
        return 0

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        cuts = dict(log.episode.parent for log in found if log.episode.parent) if self.within == "turn" else None
        chosen = _extremes((_group(log, cuts), log) for log in found)
        sides: dict[Group, dict[bool, list[Sample]]] = {}
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            if (group := _group(log, cuts)) is None:
                table.append(log.verdict(ELSEWHERE))
                continue
            best, worst = chosen[group]
            if log.episode.id not in (best, worst) or best == worst:
                table.append(log.verdict("all are worth the same" if best == worst else "neither best nor worst"))
                continue
            better = log.episode.id == best
            replies = _after(log, cuts, log.replies(refused=not better))
            worse = () if better else replies
            table.append(log.verdict("chosen" if better else "rejected", bool(replies), replies=replies, worse=worse))
            sides.setdefault(group, {})[better] = log.samples({request: (log.score, 1.0) for request in replies})
            if len(sides[group]) == 2:
                pair = sides.pop(group)
                samples += paired(f"{best}/{log.seat}", pair[True], pair[False]) if all(pair.values()) else []
        return credited(samples, table)


def _group(log: Log, cuts: Mapping[str, int] | None) -> Group | None:
    """The comparison group of a log, or None. `cuts` maps matches to the turns before their branching point."""
    if cuts is None:
        return log.episode.scenario.id, log.seat
    match, cut = log.episode.parent or (log.episode.id, cuts.get(log.episode.id))
    if cut is None or log.seat not in {turn.seat for turn in log.episode.turns[cut : cut + 1]}:
        return None
    return f"{match}@{cut}", log.seat


def _after(log: Log, cuts: Mapping[str, int] | None, replies: Sequence[str]) -> list[str]:
    """Those of `replies` that come after the branching point."""
    first = 0 if cuts is None or log.episode.parent else cuts[log.episode.id]
    late = {turn.request for turn in log.episode.turns[first:]}
    return [request for request in replies if request in late]


def _extremes(found: Iterable[tuple[Group | None, Log]]) -> dict[Group, tuple[str, str]]:
    """The match ids of the best and the worst log of each group; the same id twice if all payoffs are equal."""
    best: dict[Group, tuple[float, str]] = {}
    worst: dict[Group, tuple[float, str]] = {}
    for group, log in found:
        if group is not None:
            own = log.score, log.episode.id
            if own[0] > best.setdefault(group, own)[0]:
                best[group] = own
            if own[0] < worst.setdefault(group, own)[0]:
                worst[group] = own
    return {group: (best[group][1], worst[group][1]) for group in best}
