"""The prompts, in three forms of the same facts.

`compact` is for tiny models: every text is a few words separated by blanks. `full` is an instruction for instruct
models. `published` has the content of lm-selfplay's prompts, section by section, in our words; docs/deal.md has a table
of the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..base import Options
from .contexts import ITEMS, Triple
from .grammar import Reason


class Form(Protocol):
    """The texts of one form. `opening` is the opener's first message after the system message, or empty."""

    opening: str
    proposed: str
    options: Options

    def system(self, counts: Triple, values: Triple) -> str:
        """The system message: the rules, the items, and the seat's own values."""

    def said(self, text: str) -> str:
        """The partner's message `text`."""

    def error(self, reason: Reason, counts: Triple) -> str:
        """The message after an illegal reply: the fault, and to try again."""


class Compact:
    """A few words. The system message is each item with its count and its own value: `books 2 1 hats 1 4 balls 2 2`."""

    opening = ""
    proposed = "they proposed"
    options = Options()

    def __init__(self, weight: float) -> None:
        del weight  # a tiny model learns its objective from its reward

    def system(self, counts: Triple, values: Triple) -> str:
        return " ".join(f"{item} {count} {value}" for item, count, value in zip(ITEMS, counts, values, strict=True))

    def said(self, text: str) -> str:
        return " ".join(text.split())

    def error(self, reason: Reason, counts: Triple) -> str:
        return f"error {reason}"


ERRORS: Mapping[Reason, str] = {
    "prefix": "it must begin with [message] or [propose]",
    "tags": "it must contain one tag only, at its beginning: send one message or one proposal",
    "empty": "there is no text after [message]",
    "must_propose": "your partner has proposed, so you must answer with your own [propose]",
    "too_early": "you cannot propose before anything has been said; begin with a [message]",
    "items": "a proposal must give one whole number for each of books, hats and balls, and nothing else, as in"
    " [propose] (1 books, 0 hats, 2 balls)",
    "range": "the number of each item must lie between 0 and what is on the table: {table}",
    "length": "it was cut off because it was too long; be brief",
    "refusal": "it did not take part in the game; answer with [message] or [propose]",
}


class Full:
    """A complete instruction."""

    opening = "You speak first."
    proposed = (
        "Your partner has made a private proposal. Now make yours with [propose], so that the two together take every "
        "item. "
        "No more messages are possible."
    )
    options = Options()

    def __init__(self, weight: float) -> None:
        self.aim = objective(weight)

    def system(self, counts: Triple, values: Triple) -> str:
        return FULL.format(aim=self.aim, table=table(counts), worth=worth(values))

    def said(self, text: str) -> str:
        return f"[message] {text}"

    def error(self, reason: Reason, counts: Triple) -> str:
        fault = ERRORS[reason].format(table=table(counts))
        return (
            f"There was an error in your last reply: {fault}. Send the corrected reply only, without mentioning the "
            f"error."
        )


class Published(Full):
    """The sections of lm-selfplay's prompts, [END] included."""

    proposed = (
        "Your partner has made a proposal. Now you have to make yours. If you have talked about who gets what, propose "
        "just that: the two proposals should complement each other."
    )
    options = Options(max_tokens=200)

    def __init__(self, weight: float) -> None:
        super().__init__(weight)
        self.spirit = SPIRITS.get(weight, Spirit("Aim for a division that both of you accept."))

    def system(self, counts: Triple, values: Triple) -> str:
        spirit = self.spirit
        return PUBLISHED.format(
            aim=self.aim, skill=spirit.skill, also=spirit.also, advice=spirit.advice, table=table(counts),
            worth=worth(values),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spirit:
    """Parts of the published prompt that depend on the objective: `advice` on how to talk, the player's `skill`, and a
    sentence `also` on the partner's points."""

    advice: str
    skill: str = "negotiation"
    also: str = ""


SPIRITS: Mapping[float, Spirit] = {
    0.0: Spirit(
        "Aim for a fair division, and push back where your partner's suggestions would leave you with too few points."
    ),
    1.0: Spirit(
        "Aim for as many points as possible for both of you.",
        "cooperation",
        " The more points your partner has, the better.",
    ),
    -1.0: Spirit(
        "Aim for a division that holds and gives you the largest possible lead.",
        also=" The fewer points your partner has, the better: you may be aggressive, and turn suggestions down.",
    ),
}

FORMS: Mapping[str, Callable[[float], Form]] = {"compact": Compact, "full": Full, "published": Published}


def objective(weight: float) -> str:
    """A seat's objective in words."""
    if weight == 0:
        return "get as many points as you can for yourself; your partner's points do not matter to you"
    if weight == 1:
        return "make the sum of both players' points as large as you can"
    if weight == -1:
        return "get as many more points than your partner as you can"
    share = f"{abs(weight):g} times your partner's points"
    return f"make your own points {'plus' if weight > 0 else 'minus'} {share} as large as you can"


def table(counts: Triple) -> str:
    """`2 books, 1 hats, 2 balls`."""
    return ", ".join(f"{count} {item}" for item, count in zip(ITEMS, counts, strict=True))


def worth(values: Triple) -> str:
    """`each of the books 1, each of the hats 4, each of the balls 2`."""
    return ", ".join(f"each of the {item} {value}" for item, value in zip(ITEMS, values, strict=True))


FULL = """\
You and a partner divide some books, hats and balls. You both see the same items, but each of you has private values \
for them. Your aim: {aim}.

In every turn you do one of two things:
- talk, by writing [message] and then a short text to your partner;
- finish, by writing [propose] and then what you want to keep for yourself, for example [propose] (1 books, 0 hats, 2 \
balls).

Your first turn cannot be a proposal if nothing has been said yet. Proposals are private. As soon as one of you has \
proposed, the other must propose too, and the game ends. The deal holds only if the two proposals together take every \
item exactly once over; otherwise both of you get 0 points. So agree on a division before you propose, and leave no \
item out.

On the table: {table}.
Your values: {worth}. You do not know your partner's values.

Begin each reply with [message] or [propose] and write nothing else."""

PUBLISHED = """\
You are an expert in {skill}, and you are about to play a game with another player. You and your partner share out \
some books, hats and balls. Each item is worth points to you; what it is worth to your partner you do not know. You \
will be told how many items of each kind there are, and your own private values. Your goal is to {aim}.{also}

In each turn you can either send a message to your partner or hand in a private proposal of how to divide the items. \
Your partner does the same, and neither of you sees the other's proposal. {advice} If the two proposals together are \
not exactly the items on the table, both players score 0.

A message is written like this:
[message] Your text.

A proposal is written like this:
[propose] (x books, y hats, z balls)

Here x, y and z are how many of each you want for yourself, in whole numbers: an item cannot be split. If you want 1 \
book, 2 hats and no ball, write
[propose] (1 books, 2 hats, 0 balls)

Do not leave an item unclaimed when you talk: your proposal and your partner's have to add up to all the items. To \
that proposal your partner would have to write the one that complements it. With 3 books, 2 hats and 1 ball on the \
table that is
[propose] (2 books, 0 hats, 1 balls)

Every reply must begin with [message] or [propose]. Proposals are final, so make sure that both of you agree on who \
takes which item before you end the talk with one.

Every reply must end with [END].

Now divide what is on the table between yourself and your partner. Talk openly, and propose only after a few messages.
On the table: {table}.
Your values: {worth}.
Your partner's values are not known to you.

Remember: your goal is to {aim}, and your partner has to agree to the deal."""
