"""The published layouts of SPAG (arXiv 2404.10642, as coded), in our words: one text that tells the whole match so far.

Its authors trained on three layouts with much left to chance (`Draw`), drawn anew for every utterance, and played on a
fourth (`rollout_text`). What was wrong is not repeated: the paraphrase with another
number of rounds, a missing blank before the sentence that the game has begun, a misspelt instruction. That sentence
stays in the attacker's layout chat, where the original took it away after the first turn, so that the text only grows.

Where the text of a turn begins with that of the seat's last turn and its reply, the view simply grows (layout chat,
drawn once); otherwise it is one new message, and a model's token stream forks. The training layouts end in a blank, as
published; tokenizers of the SentencePiece family make that a token of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal, TypeAlias

from ..base import Illegal, Json, Message, Options, Reply, Request
from .prompts import RULES, Brief, Form, rules

Layout: TypeAlias = Literal["chat", "chat_inverse", "alpaca"]
History: TypeAlias = Sequence[tuple[str, str]]  # (seat, text), attacker first

LAYOUTS: Sequence[Layout] = ("chat", "chat_inverse", "alpaca")
MARKERS = ("- ", "# ", "## ", "### ", "** ", "*** ", "")
NAMES: Sequence[tuple[str, str] | None] = (
    None,
    ("Assistant", "Human"),
    ("Answer", "Question"),
    ("Response", "Query"),
    ("A", "Q"),
)
LABELS = ("System", "Instruction", "Rules")
OPTIONS = Options(max_tokens=256)
BEGUN = "The game has just begun."


@dataclass(frozen=True, slots=True)
class Draw:
    """What a training layout leaves to chance.

    marker    what a line of the history begins with, after a blank line
    names     (who is to speak, the other), None for the roles' own names
    label     what stands before the rules; layout alpaca has it in one case of five
    asks      layout alpaca, in one case of five: the instruction itself asks for the reply, instead of a last line
    """

    layout: Layout
    rules: str
    marker: str
    names: tuple[str, str] | None
    label: str
    labelled: bool
    asks: bool

    @staticmethod
    def of(chance: Random) -> Draw:
        """A draw, uniform but for the two cases of five."""
        return Draw(
            chance.choice(LAYOUTS), chance.choice(RULES), chance.choice(MARKERS), chance.choice(NAMES),
            chance.choice(LABELS),
            chance.random() < 0.2, chance.random() < 0.2,
        )  # fmt: skip


def training_text(draw: Draw, brief: Brief, history: History) -> str:
    """The prompt of the next utterance in a training layout; `history` is everything said before it."""
    own, other = draw.names or (brief.seat, "defender" if brief.seat == "attacker" else "attacker")
    lines = "".join(f"\n\n{draw.marker}{own if seat == brief.seat else other}: {text}" for seat, text in history)
    turn = f"\n\n{draw.marker}{own}: "
    told, role = rules(draw.rules, brief), instruction(brief)
    if draw.layout == "chat":
        begun = f" {BEGUN}" if brief.seat == "attacker" else ""
        return f"{draw.label}: {told} {role}{begun}{lines}{turn}"
    if draw.layout == "chat_inverse":
        return f"{(lines or BEGUN).lstrip()}\n\n{draw.label}: {told} {role}{turn}"
    past = f"\n\nGame History:{lines}\n\n" if lines else f" {BEGUN}\n\n"
    head = f"{draw.label}: {told}" if draw.labelled else told
    return f"{head}{past}{role.removesuffix('.')}: " if draw.asks else f"{head}{past}{role}{turn}"


def rollout_text(brief: Brief, history: History) -> str:
    """The prompt of the next utterance as the published models were played: the first paraphrase, one layout."""
    lines = "\n".join(f"  - {seat}: {text}" for seat, text in history)
    past = f"\n\n### Game History:\n{lines}" if history else f" {BEGUN}"
    return f"{rules(RULES[0], brief)}{past}\n\n### Instruction: {instruction(brief)}\n\n### Response:"


def instruction(brief: Brief) -> str:
    """What the seat is to do now."""
    if brief.seat == "attacker":
        return f"You are the attacker and the target word is `{brief.word}`. Give your next utterance."
    return "You are the defender. Work out the target word and give your next utterance."


class Page:
    """A view of a single text, which `write` rewrites for each turn."""

    def __init__(self, brief: Brief, write: Callable[[History], str]) -> None:
        self.seat, self.write = brief.seat, write
        self.other = "defender" if brief.seat == "attacker" else "attacker"
        self._history: list[tuple[str, str]] = []
        self._messages: list[Message] = []
        self._asked = 0

    def partner(self, text: str) -> None:
        self._history.append((self.other, text.strip()))

    def ask(
        self, kind: str = "act", options: Options = OPTIONS, observation: Mapping[str, Json] | None = None
    ) -> Request:
        text, shown = self.write(self._history), "".join(message.content for message in self._messages)
        if self._messages and text.startswith(shown) and len(text) > len(shown):
            self._messages.append(Message("user", text[len(shown) :]))
        else:
            self._messages = [Message("user", text)]
        self._asked += 1
        return Request(f"{self.seat}.{self._asked}", self.seat, tuple(self._messages), kind, options, observation)

    def hear(self, reply: Reply) -> None:
        self._history.append((self.seat, reply.text))
        self._messages.append(Message("assistant", reply.text, reply.id))

    def refuse(self, illegal: Illegal) -> None:
        """The same turn is asked for once more: the published layouts have no place for an error."""
        del illegal
        self._history.pop()


def drawn_once(brief: Brief, chance: Random) -> Page:
    """A training layout, drawn once for the seat."""
    return Page(brief, partial(training_text, Draw.of(chance), brief))


def drawn_each_turn(brief: Brief, chance: Random) -> Page:
    """A training layout, redrawn for every utterance, as published."""
    return Page(brief, lambda history: training_text(Draw.of(chance), brief, history))


def rollout(brief: Brief, chance: Random) -> Page:
    """The layout in which the published models were played."""
    del chance
    return Page(brief, partial(rollout_text, brief))


PUBLISHED: Mapping[str, Form] = {"spag": drawn_once, "spag_utterance": drawn_each_turn, "spag_rollout": rollout}
