"""Payoffs and metrics of a finished match.

The winner gets 1, the loser -1. A seat that breaks the rules gets -1, and the other seat 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..base import Marks, Result
from .judges import JUDGES, Judge, Ruling

ROLES = ("attacker", "defender")
RULINGS = ("attacker", "defender", "breach")

METRICS: Mapping[str, str] = {
    "win_rate": "1 for the seat that won, 0 for the other; 0 for both in a tie or after a rule break",
    "attacker_win_rate": "1 if the attacker won: the defender said the word unaware or guessed wrong (the attacker's "
    "matches only)",
    "defender_win_rate": "1 if the defender won: it announced the right word (the defender's matches only)",
    "attacker_break_rate": "1 if the attacker broke the rules: it said the word or announced a guess (the attacker's "
    "matches only)",
    "attacker_win_clean": "attacker_win_rate among matches without a rule break",
    "defender_win_clean": "defender_win_rate among matches without a rule break",
    "tie_rate": "1 if all turns were used up and nothing was decided",
    "word_leak_rate": "1 if the seat said the word where it must not: the attacker ever, the defender outside a guess",
    "guess_rate": "1 if the defender announced a guess",
    "guess_accuracy": "1 if the guess was right, among matches with one",
    "turns": "utterances of both seats",
    "words": "words of an utterance of the seat, on average",
    "retries": "illegal replies (empty or refused) of the seat",
    "invalid_rate": "1 if the match ended because the seat made no utterance, or its view outgrew the model's context",
    "judges_agree": "1 if both judges rule alike",
    **{f"{judge}_{ruling}": f"1 if the {judge} judge rules {ruling!r}" for judge in JUDGES for ruling in RULINGS},
    **{f"{judge}_none": f"1 if nothing in the match decides it for the {judge} judge" for judge in JUDGES},
}


@dataclass(slots=True)
class Tally:
    """Counts during a match. `rulings` maps a judge to its first ruling, `said` holds (seat, text) of all utterances,
    `retries` counts the illegal replies of each seat, `marks` holds the reason of an illegal reply, or the judges'
    rulings."""

    rulings: dict[str, Ruling] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    marks: Marks = field(default_factory=dict)


def result(tally: Tally, outcome: str, blame: tuple[str, ...], judge: Judge, void: bool) -> Result:
    """The result of a match that ended with `outcome`; `void`: a rule break of the attacker gives no payoffs."""
    by_seat, returns = _shares(outcome, blame, void and outcome == "breach")
    metrics = {**_wins(outcome), **_talk(tally, outcome, blame), **_ending(tally, outcome, judge)}
    return Result(returns, outcome, by_seat, blame, metrics, tally.marks)


def _shares(outcome: str, blame: tuple[str, ...], void: bool) -> tuple[dict[str, str], dict[str, float]]:
    """(outcome by seat, return by seat)."""
    if void:
        return dict.fromkeys(ROLES, "void"), dict.fromkeys(ROLES, 0.0)
    if blame:
        return {role: "loss" if role in blame else "void" for role in ROLES}, {
            role: -1.0 if role in blame else 0.0 for role in ROLES
        }
    if outcome == "tie":
        return dict.fromkeys(ROLES, "tie"), dict.fromkeys(ROLES, 0.0)
    return {role: "win" if role == outcome else "loss" for role in ROLES}, {
        role: 1.0 if role == outcome else -1.0 for role in ROLES
    }


Metrics: TypeAlias = dict[str, "float | Mapping[str, float]"]


def _wins(outcome: str) -> Metrics:
    """A metric of one role names only that role, so that it is averaged over a player's matches in it."""
    won = {role: int(outcome == role) for role in ROLES}
    metrics: Metrics = {
        "win_rate": won,
        "attacker_break_rate": {"attacker": int(outcome == "breach")},
        "tie_rate": int(outcome == "tie"),
    }
    for role in ROLES:
        metrics[f"{role}_win_rate"] = {role: won[role]}
        if outcome != "breach":
            metrics[f"{role}_win_clean"] = {role: won[role]}
    return metrics


def _talk(tally: Tally, outcome: str, blame: tuple[str, ...]) -> Metrics:
    texts = {role: [text for seat, text in tally.said if seat == role] for role in ROLES}
    lost = blame if outcome in ("abort", "context") else ()
    return {
        "turns": len(tally.said),
        "words": {role: sum(len(text.split()) for text in own) / len(own) for role, own in texts.items() if own},
        "retries": {role: tally.retries[role] for role in ROLES},
        "invalid_rate": {role: int(role in lost) for role in ROLES},
    }


def _ending(tally: Tally, outcome: str, judge: Judge) -> Metrics:
    """Only the last utterance of a match can contain the word or a guess, because that ends the match."""
    seat, text = tally.said[-1] if tally.said else ("", "")
    guess = judge.guess(text) if seat == "defender" else None
    leak = outcome in RULINGS and guess is None and judge.says(text)
    metrics: Metrics = {
        "word_leak_rate": {role: int(leak and role == seat) for role in ROLES},
        "guess_rate": {"defender": int(guess is not None)},
        "judges_agree": int(len({tally.rulings.get(name) for name in JUDGES}) == 1),
    }
    if guess is not None:
        metrics["guess_accuracy"] = {"defender": int(guess)}
    for name in JUDGES:
        ruled = tally.rulings.get(name)
        metrics |= {f"{name}_{ruling}": int(ruled == ruling) for ruling in RULINGS} | {
            f"{name}_none": int(ruled is None)
        }
    return metrics
