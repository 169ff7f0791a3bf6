"""The prompts, in several forms.

`chat` is an instruction followed by a chat, and `compact` the same game in a few words for tiny models; in both, views
only grow. In the published layouts (`layouts`) the whole match so far is one text that is written anew for every turn.
Each seat draws its paraphrase or layout from the match's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, TypeAlias

from ..base import Asked, Illegal, View

Reason: TypeAlias = Literal["empty", "refusal"]


@dataclass(frozen=True, slots=True)
class Brief:
    """A seat's facts at the start. `word` is None for the defender; `void`: a rule break gives no payoffs."""

    seat: str
    word: str | None
    turns: int
    void: bool


class SeatView(Asked, Protocol):
    """One seat's private view during a match."""

    def partner(self, text: str) -> None:
        """Adds the other seat's utterance."""


class Chat(View):
    """A view that grows: a system message with the rules, then the two seats' utterances."""

    def __init__(self, brief: Brief, chance: Random) -> None:
        role = ROLE[brief.seat].format(word=brief.word)
        super().__init__(brief.seat, f"{rules(chance.choice(RULES), brief)}\n\n{role}")
        if brief.seat == "attacker":
            self.tell(OPENING)

    def partner(self, text: str) -> None:
        self.tell(text.strip())

    def refuse(self, illegal: Illegal) -> None:
        self.tell(ERRORS[illegal.reason])


class Compact(View):
    """A few words: the system message is `attacker apple` or `defender`."""

    def __init__(self, brief: Brief, chance: Random) -> None:
        del chance  # nothing is drawn
        super().__init__(brief.seat, f"{brief.seat} {brief.word}" if brief.word else brief.seat)

    def partner(self, text: str) -> None:
        self.tell(" ".join(text.split()))

    def refuse(self, illegal: Illegal) -> None:
        self.tell(f"error {illegal.reason}")


Form: TypeAlias = Callable[[Brief, Random], SeatView]

OPENING = "The game begins. You speak first."
ROLE: Mapping[str, str] = {
    "attacker": 'You are the attacker. The target word is "{word}": do not say it in any form. Reply with your next \
utterance only.',
    "defender": "You are the defender. Work out the target word. Reply with your next utterance only.",
}
ERRORS: Mapping[str, str] = {
    "empty": "Your reply was empty. Say something to the other player.",
    "refusal": "Your reply did not take part in the game. Reply with your next utterance.",
}


def rules(text: str, brief: Brief) -> str:
    """A paraphrase with its numbers filled in."""
    return text.format(turns=brief.turns, breach="the game is void" if brief.void else "the attacker loses")


RULES: Sequence[str] = (
    """\
Adversarial Taboo is a conversation game between an attacker and a defender. At the start the attacker is given a \
target word that the defender does not know. The attacker tries to bring the defender to say that word without \
noticing it. To do so the attacker may talk about anything at all, but must never say the word itself; if that \
happens, {breach}. The defender tries to work out the word and must avoid saying it by accident. As soon as the \
defender believes to know it, the defender may announce one guess with the sentence "I know the word! It is ...": the \
defender wins if the guess is right and loses if it is wrong. Each player has {turns} turns, the attacker begins, and \
if nothing is decided by then the game is a tie.""",
    """\
Two people play a word game, Adversarial Taboo: one attacks, one defends. Only the attacker has been told the target \
word. The attacker's aim is to steer the talk, on whatever topic, so that the defender utters this word unaware. The \
attacker is not allowed to say it; otherwise {breach}. The defender, meanwhile, listens for what the word could be. \
The defender has one guess, which is announced by "I know the word! It is ...". A right guess wins the game for the \
defender, a wrong one for the attacker. There are at most {turns} turns for each side, with the attacker speaking \
first; if neither has won after that, it is a tie.""",
    """\
Here is how Adversarial Taboo is played. There is a target word, known to the attacker and hidden from the defender. \
In turns, starting with the attacker, they hold a conversation of no more than {turns} turns each. The attacker wins \
if the defender says the target word without having recognised it. The attacker may choose every subject and every \
question, but not the target word: if the attacker says it, {breach}. The defender wins by recognising the word: once \
sure of it, the defender says "I know the word! It is ..." and completes the sentence. That can be done only once, \
for a wrong guess loses the game. When all turns are over without a winner, the players tie.""",
    """\
In Adversarial Taboo an attacker and a defender talk to each other. What the defender has to find out, and must not \
say by mistake, is the attacker's secret target word. The defender's way to win is the announcement "I know the word! \
It is ...", with the right word at its end; with a wrong word the attacker wins, so there is just one guess. The \
attacker's way to win is to lead the defender into saying the word in an ordinary utterance. Anything may be talked \
about for this, except that the attacker never says the word itself, or else {breach}. The attacker opens, each side \
speaks {turns} times at most, and a game that is undecided then is a tie.""",
    """\
You take part in a game called Adversarial Taboo, which has a defender and an attacker. A word has been chosen; the \
attacker knows it and the defender does not. The defender talks with the attacker, tries to infer the word from what \
is said, and takes care not to use it unknowingly, because that would make the attacker win. If the defender thinks \
the word is clear, "I know the word! It is ..." announces the single guess that is allowed: right means that the \
defender wins, wrong that the attacker does. The attacker may say anything that lures the defender towards the word, \
but not the word; if it is said, {breach}. The attacker goes first. After {turns} turns of each player the game ends \
in a tie.""",
    """\
Rules of Adversarial Taboo. Roles: an attacker, who holds a target word, and a defender, who has not been told it. \
Length: up to {turns} turns per role, beginning with the attacker. The attacker: may speak about any topic; wants the \
defender to say the target word unconsciously; must not say the target word (if this rule is broken, {breach}). The \
defender: wants to identify the target word; must not say it unconsciously; may guess a single time, in the form "I \
know the word! It is ...". End: a right guess wins for the defender, a wrong guess or an unconscious use of the word \
wins for the attacker, and if the turns run out it is a tie.""",
    """\
This is a contest in conversation. The attacker secretly has a word. The defender tries to find out which one, while \
the attacker tries to make the defender pronounce it without suspecting anything. So the attacker guides the \
dialogue, with any topic or question, but has to do it without pronouncing the word: if the attacker pronounces it, \
{breach}. A defender who has seen through the attacker says "I know the word! It is ..." followed by the word. This \
guess is final: the defender wins with the right word, and the attacker with any other. The attacker starts, and both \
have {turns} turns. If by then nobody has won, the result is a tie.""",
    """\
Adversarial Taboo, for two players. One of them, the attacker, receives a target word; the other, the defender, does \
not see it. They speak in turn, the attacker first, {turns} times each at the most. If the defender uses the target \
word in what it says, other than as a declared guess, the attacker has won. The attacker cannot use the word to bring \
this about: if the attacker does, {breach}. Instead it may talk about whatever it likes. The defender may declare one \
guess at any turn, by saying "I know the word! It is ...". The guess settles the game: for the defender if it is \
right, for the attacker if not. A game in which nothing of this happens is a tie.""",
)
