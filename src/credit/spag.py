"""SPAG's credit: the winner's replies with decayed rewards and balanced roles, with switches to train on the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample, decayed
from ..system.files import InputError
from .base import Credited, Log, credited, logs
from .verdicts import Verdicts

Role: TypeAlias = tuple[str, str]  # how a log ended (see `_ending`), and its seat
Kind: TypeAlias = tuple[str, str, int]  # the same, and its number of replies: all that rewards and weight depend on

FORMS: Mapping[str, Mapping[str, object]] = {
    "corrected": {"gamma": 1.0, "spread": "whole", "losers": -1.0, "breakers": -1.0, "baseline": "turn"},
    "faithful": {"gamma": 0.8, "spread": "shared", "losers": 0.0, "breakers": 0.0, "baseline": "none"},
}


@dataclass(frozen=True, slots=True)
class SpagCredit:
    """Decayed rewards for the winner, balanced over the roles (SPAG, arXiv:2404.10642, assign_rewards in its code).

    The winner of a match (`outcome_by_seat[seat] == "win"`) has the total reward 1 for its n replies. form=faithful:
    the replies share it (`decayed`, gamma 0.8); losers ("loss"), ties (any other word), seats that broke the rules
    (`blame`) and seats whose word is "void" give no samples. form=corrected: each reply has the whole reward minus the
    mean of the seat's replies of that turn, and a seat that loses or breaks the rules has -1, so that both seats learn
    from every decided match.

    gamma         decay towards earlier replies (corrected 1, faithful 0.8)
    spread        whole (corrected): the j-th reply has gamma^(n-j) of the total, the discounted return of REINFORCE;
                  shared (faithful): that divided by its sum over the match. Then a win after two replies gives the
                  second 0.56, but after five 0.15: waiting for one more clue costs reward.
    role_weights  utterance weight N / (R N_r): N winners, N_r of them in role r, R roles; so every role has the same
                  total of weight times reward. Losers and rule breakers are balanced separately in the same way.
    losers        total reward of a loser, at most 0 (corrected -1; faithful 0, no samples: the author reports that
                  training with negative rewards did not converge). With a baseline, 0 optimises the win rate: a tie is
                  worth no more than a defeat, and an uncertain guess more than none.
    breakers      the same for a seat to blame (corrected -1, faithful 0). The other seats keep their own outcome:
                  "void" in Taboo, whose defender did not earn that win; win or loss if a game for several went on.
    baseline      role: subtracts from every total (win 1, loss, break, tie 0) the mean over the role's logs, so that
                  ties and unpunished losses become negative (REINFORCE with a baseline per role); turn (corrected):
                  subtracts from each reward the mean over the role's replies of that turn, which compares ending the
                  match there with going on; none (faithful)
    mix           number of demonstrations mixed into each round as kind "sft", with their own weights (all of them if
                  there are fewer)
    """

    gamma: float | None = None
    role_weights: bool = True
    losers: float | None = None
    breakers: float | None = None
    baseline: Literal["none", "role", "turn"] | None = None
    spread: Literal["whole", "shared"] | None = None
    mix: int = 0
    form: Literal["corrected", "faithful"] = "corrected"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}, expected corrected or faithful")
        for name, value in FORMS[self.form].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        assert self.gamma is not None and self.losers is not None and self.breakers is not None
        if not 0 < self.gamma <= 1 or self.losers > 0 or self.breakers > 0:
            raise ValueError(f"{self}: expected 0 < gamma <= 1, losers and breakers <= 0")
        if self.baseline not in ("none", "role", "turn") or self.spread not in ("whole", "shared"):
            raise ValueError(f"{self}: expected baseline none, role or turn, and spread whole or shared")
        if self.baseline != "none" and self.breakers > self.losers:
            raise ValueError(
                f"{self}: with a baseline breakers must not exceed losers, or breaking the rules would pay for a seat "
                f"that usually loses"
            )

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        played = Counter(_kind(log) for log in found)
        totals = self._totals(played)
        rewards = self._rewards(played, totals)
        weights = self._weights(
            {kind: count for kind, count in played.items() if rewards[kind]}, {seat for _, seat, _ in played}
        )
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            kind = ending, seat, _ = _kind(log)
            own = log.replies(breach=True) if rewards[kind] else []
            earned = dict(zip(own, rewards[kind], strict=True))
            samples += log.samples({request: (reward, weights[ending, seat]) for request, reward in earned.items()})
            why = ending if own else f"{ending}, left out"
            worse = [request for request, reward in earned.items() if reward <= 0]
            table.append(log.verdict(why, bool(own), totals[ending, seat] or 0.0, replies=own, worse=worse))
        return credited(samples, table, demonstrations)

    def _totals(self, played: Mapping[Kind, int]) -> dict[Role, float | None]:
        """The total reward of a log; None if it is left out."""
        worth = {"win": 1.0, "loss": self.losers or 0.0, "break": self.breakers or 0.0, "tie": 0.0}
        totals = {(ending, seat): worth.get(ending) for ending, seat, _ in played}
        if self.baseline == "turn":
            return totals
        if self.baseline == "role":
            seats: dict[str, Counter[float]] = defaultdict(Counter)
            for (ending, seat, _), count in played.items():
                if ending in worth:
                    seats[seat][worth[ending]] += count
            means = {seat: mean(earned.elements()) for seat, earned in seats.items()}
            totals = {role: None if total is None else total - means[role[1]] for role, total in totals.items()}
        return {role: total or None for role, total in totals.items()}

    def _rewards(self, played: Mapping[Kind, int], totals: Mapping[Role, float | None]) -> dict[Kind, list[float]]:
        """The rewards of a log's replies, in order; empty for a log that is left out."""
        gamma, found = self.gamma or 1.0, dict[Kind, list[float]]()
        for ending, seat, replies in played:
            shares = (
                decayed(replies, gamma)
                if self.spread == "shared"
                else [gamma ** (replies - j) for j in range(1, replies + 1)]
            )
            total = totals[ending, seat]
            found[ending, seat, replies] = [] if total is None else [total * share for share in shares]
        if self.baseline != "turn":
            return found
        turns: dict[tuple[str, int], Counter[float]] = defaultdict(Counter)
        for kind, rewards in found.items():
            for at, reward in enumerate(rewards):
                turns[kind[1], at][reward] += played[kind]
        means = {turn: mean(earned.elements()) for turn, earned in turns.items()}
        return {
            kind: [reward - means[kind[1], at] for at, reward in enumerate(rewards)] for kind, rewards in found.items()
        }

    def _weights(self, trained: Mapping[Kind, int], seats: Collection[str]) -> Mapping[Role, float]:
        """The weight of a log; `trained` counts the logs to train on."""
        if not self.role_weights:
            return defaultdict(lambda: 1.0)
        of_ending, of_role = Counter[str](), Counter[Role]()
        for (ending, seat, _), count in trained.items():
            of_ending[self._balanced(ending)] += count
            of_role[self._balanced(ending), seat] += count
        weights = {}
        for ending, seat, _ in trained:
            among = self._balanced(ending)
            weights[ending, seat] = of_ending[among] / (len(seats) * of_role[among, seat])
        return weights

    def _balanced(self, ending: str) -> str:
        """The logs among which roles are balanced: those of one ending, or all with a baseline."""
        return ending if self.baseline == "none" else "all"


def _kind(log: Log) -> Kind:
    return _ending(log), log.seat, len(log.replies(breach=True))


def _ending(log: Log) -> str:
    """win, loss, tie or void by the seat's own outcome; break for a seat to blame.

    An honest seat without an outcome is void if another seat is to blame.
    """
    result = log.episode.result
    if log.blamed:
        return "break"
    word = result.outcome_by_seat.get(log.seat, "void" if result.blame else None)
    if word is None:
        raise InputError(
            f"match {log.episode.id}: outcome_by_seat has no entry for {log.seat!r}, expected win, loss or another "
            f"word (a tie)"
        )
    return word if word in ("win", "loss", "void") else "tie"
