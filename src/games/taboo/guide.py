"""The texts of Adversarial Taboo for a person at the terminal, independent of the models' prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import Result, Scenario

RULES = {
    "attacker": """\
You know the word "{word}", your partner does not. Talk, and get your partner to say it without knowing that it is \
the word. You must not say it yourself. If your partner guesses it, you lose.""",
    "defender": """\
Your partner knows a secret word, and wants you to say it without noticing. Talk, and find out what it is, without \
saying it by chance. When you are sure, write: I know the word! It is `WORD`. You may do so once, and a wrong guess \
loses.""",
}
OUTCOMES = {"win": "you won", "loss": "you lost", "tie": "nobody won"}


class TabooGuide:
    """The guide of one game."""

    def rules(self, seat: str, seen: Mapping[str, Any]) -> str:
        """The rules of the person's role, with the word for the attacker."""
        return f"{RULES[seat].format(word=seen.get('word', ''))}\nEach side has {seen['turns_left']} turns."

    def now(self, seat: str, seen: Mapping[str, Any]) -> str:
        """The legal replies now, with an example."""
        guess = "; or: I know the word! It is `apple`." if seat == "defender" else ""
        return f"Write a sentence, as in: What do you like to eat?{guess} ({seen['turns_left']} turns left)"

    def refused(self, seat: str, seen: Mapping[str, Any]) -> str:
        """Why the last reply was not taken."""
        reason = "it was empty" if seen["error"] == "empty" else f"it was no part of the talk ({seen['error']})"
        return f"That was not taken: {reason}. Try again."

    def ending(self, scenario: Scenario, result: Result, seat: str) -> str:
        """Who won, and the word."""
        told = OUTCOMES.get(result.outcome_by_seat.get(seat, ""), result.outcome)
        return f'{told}; the word was "{scenario.data["word"]}"'
