"""SPAG's credit: the winner's replies, with decayed rewards and balanced roles; and what it leaves out, as switches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, TypeAlias

from ...files import InputError
from ..episode import Episode
from ..sample import Sample
from .base import Credited, Log, credited, decayed, logs
from .verdicts import Verdicts

Kind: TypeAlias = tuple[str, str]  # how a log ended (see `_ending`), and its seat: all that reward and weight depend on

FORMS: Mapping[str, Mapping[str, object]] = {
    "corrected": {"losers": -1.0, "breakers": -1.0, "baseline": "role"},
    "faithful": {"losers": 0.0, "breakers": 0.0, "baseline": "none"},
}


@dataclass(frozen=True, slots=True)
class SpagCredit:
    """Decayed rewards of the winner, balanced over the roles (SPAG, arXiv:2404.10642, assign_rewards in its code).

    The winner of a match (`outcome_by_seat[seat] == "win"`) shares the reward 1 out over its n replies (`decayed`).
    form=faithful: losers ("loss"), ties (any other word) and matches that a rule break ended (`blame`) give no samples
    (losers 0, breakers 0, baseline none). form=corrected: who loses or breaks the rules gets -1, less the role's mean
    (losers -1, breakers -1, baseline role), so that both seats learn from every match that was decided, and that seat most
    which seldom wins. A switch that is given counts, whatever the form.

    gamma         decay towards earlier replies
    role_weights  utterance weight N / (R N_r): N winners, N_r of them in role r, R roles; so every role has the same
                  total of weight times reward. Losers and breakers are balanced among themselves in the same way.
    losers        total reward of a loser, at most 0 (0: none, as published; the author reports that training with
                  negative rewards did not converge)
    breakers      the same for the seat to blame. Its opponent never has a sample: it did not earn that win.
    baseline      role: from every total (win 1, loss, break, tie 0) the mean over the role's logs is taken off, so
                  that ties and unpunished losses become negative (REINFORCE with a baseline for each role)
    mix           demonstrations that are mixed into each round as kind "sft", with weights of their own (all of them
                  where there are fewer)
    """

    gamma: float = 0.8
    role_weights: bool = True
    losers: float | None = None
    breakers: float | None = None
    baseline: Literal["none", "role"] | None = None
    mix: int = 0
    form: Literal["corrected", "faithful"] = "corrected"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}, expected corrected or faithful")
        for name, value in FORMS[self.form].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        assert self.losers is not None and self.breakers is not None
        if not 0 < self.gamma <= 1 or self.losers > 0 or self.breakers > 0 or self.baseline not in ("none", "role"):
            raise ValueError(f"{self}: expected 0 < gamma <= 1, losers and breakers <= 0, baseline none or role")
        if self.baseline == "role" and self.breakers > self.losers:
            raise ValueError(
                f"{self}: with a baseline breakers must not exceed losers, or breaking the rules would pay for who mostly loses"
            )

    def __call__(self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = ()) -> Credited:
        found = logs(episodes, player)
        played, able = Counter[Kind](), Counter[Kind]()  # logs of each kind; and those with a reply to train on
        for log in found:
            played[kind := (_ending(log), log.seat)] += 1
            able[kind] += bool(log.replies(breach=True))
        totals = self._totals(played)
        weights = self._weights(Counter({kind: count for kind, count in able.items() if totals[kind]}), {seat for _, seat in played})
        samples: list[Sample] = []
        table = Verdicts()
        for log in found:
            kind = ending, _ = _ending(log), log.seat
            total, weight = totals[kind], weights[kind]
            own = log.replies(breach=True) if total else []
            shares = decayed(len(own), self.gamma)
            samples += log.samples({request: (total * share, weight) for request, share in zip(own, shares)})
            table.append(log.verdict(ending if own else f"{ending}, left out", bool(own), total, replies=own))
        return credited(samples, table, demonstrations)

    def _totals(self, played: Mapping[Kind, int]) -> dict[Kind, float]:
        """The total reward of a log, by its kind."""
        worth = {"win": 1.0, "loss": self.losers or 0.0, "break": self.breakers or 0.0, "tie": 0.0}
        if self.baseline == "none":
            return {(ending, seat): worth.get(ending, 0.0) for ending, seat in played}
        roles: dict[str, Counter[float]] = defaultdict(Counter)
        for (ending, seat), count in played.items():
            if ending in worth:
                roles[seat][worth[ending]] += count
        means = {seat: mean(totals.elements()) for seat, totals in roles.items()}
        return {(ending, seat): worth[ending] - means[seat] if ending in worth else 0.0 for ending, seat in played}

    def _weights(self, trained: Counter[Kind], seats: Collection[str]) -> Mapping[Kind, float]:
        """The weight of a log, by its kind; `trained` counts the logs that are trained on."""
        if not self.role_weights:
            return defaultdict(lambda: 1.0)
        by_role = self.baseline == "role"  # whatever the ending
        of_ending, of_kind = Counter[str](), Counter[Kind]()
        for (ending, seat), count in trained.items():
            of_ending["all" if by_role else ending] += count
            of_kind["all" if by_role else ending, seat] += count
        weights = {(ending, seat): of_ending[ending] / (len(seats) * count) for (ending, seat), count in of_kind.items() if count}
        return defaultdict(float, {kind: weights.get(("all" if by_role else kind[0], kind[1]), 0.0) for kind in trained})


def _ending(log: Log) -> str:
    """win, loss, tie, break (this seat is to blame) or void (another seat is)."""
    result = log.episode.result
    if result.blame is not None:
        return "break" if result.blame == log.seat else "void"
    if log.seat not in result.outcome_by_seat:
        raise InputError(
            f"match {log.episode.id}: outcome_by_seat says nothing of {log.seat!r}, expected win, loss or another word (a tie)"
        )
    word = result.outcome_by_seat[log.seat]
    return word if word in ("win", "loss") else "tie"
