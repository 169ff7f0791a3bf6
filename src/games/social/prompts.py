"""The prompts, in three forms of the same facts.

`chat` is an instruction followed by a growing chat. `published` is Sotopia's single message, rewritten for each turn,
in our words: own actions are reported like those of others, and token streams fork in every turn. `compact` has few
words, for tiny models, whose replies are plain text, too: `speak hello`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from ..base import Asked, Illegal, Json, Message, Options, Reply, Request, View
from .actions import KINDS, LEAVE, NONE, WORDLESS, Action, parse
from .people import Form, Task, seen

Told: TypeAlias = Sequence[tuple[int, Action]]
"""(seat index, action) of one turn."""


class SeatView(Asked, Protocol):
    """One seat's private view during a match."""

    def see(self, turn: int, told: Told) -> None:
        """Adds the actions of a turn, numbered from 0."""

    def parse(self, reply: Reply) -> Action | Illegal:
        """The action in a reply."""


class Chat(View):
    """All facts in the system message; then others' actions and the seat's own replies."""

    def __init__(self, seat: str, task: Task, place: int, form: Form) -> None:
        name = task.names[place]
        super().__init__(seat, f"{PART.format(name=name)}\n\n{task.context(place, form)}\n\n{ANSWER}")
        self.names, self.place, self.parse = task.names, place, parse
        self.tell(STARTS)

    def see(self, turn: int, told: Told) -> None:
        """Own actions are in the view as replies already, unless nothing was done."""
        others = [(seat, action) for seat, action in told if seat != self.place or action == NONE]
        if others:
            self.tell(_line(turn, others, self.names))


class Page:
    """A single message with everything, rewritten for each turn."""

    def __init__(self, seat: str, task: Task, place: int, form: Form) -> None:
        self.seat, self.names, self.parse = seat, task.names, parse
        self._lines = [PART.format(name=self.names[place]), "", task.context(place, form), STARTS]
        self._turn = self._asked = 0
        self._tries: list[Message] = []

    def see(self, turn: int, told: Told) -> None:
        self._turn, self._tries = turn + 1, []
        self._lines.append(_line(turn, told, self.names))

    def ask(
        self, kind: str = "act", options: Options = Options(), observation: Mapping[str, Json] | None = None
    ) -> Request:
        self._asked += 1
        text = "\n".join([*self._lines, f"It is turn #{self._turn}, and yours to act.", ANSWER])
        messages = (Message("user", text), *self._tries)
        return Request(f"{self.seat}.{self._asked}", self.seat, messages, kind, options, observation)

    def hear(self, reply: Reply) -> None:
        self._tries.append(Message("assistant", reply.text, reply.id))

    def refuse(self, illegal: Illegal) -> None:
        self._tries.append(Message("user", illegal.told or illegal.reason))


class Compact(View):
    """A few words. The system message is the situation, then the seat's own goal."""

    def __init__(self, seat: str, task: Task, place: int, form: Form) -> None:
        del form
        viewer = f"agent_{place + 1}"
        super().__init__(seat, f"{seen(task.situation, viewer)}\n{seen(task.goals[place], viewer)}")
        self.place = place

    def see(self, turn: int, told: Told) -> None:
        for seat, action in told:
            if seat != self.place:
                self.tell(plain(action))

    def refuse(self, illegal: Illegal) -> None:
        self.tell(f"error {illegal.reason}")

    def parse(self, reply: Reply) -> Action | Illegal:
        words = reply.text.split()
        kind = next((kind for kind in KINDS if words[: len(kind.split())] == kind.split()), None)
        if kind is None:
            return Illegal("no action")
        argument = " ".join(words[len(kind.split()) :])
        return Action(kind, argument) if bool(argument) != (kind in WORDLESS) else Illegal("no argument")


def plain(action: Action) -> str:
    """An action as plain text; `Compact.parse` reads it back."""
    return f"{action.kind} {action.argument}".strip()


def _line(turn: int, told: Told, names: Sequence[str]) -> str:
    return f"Turn #{turn}: " + "; ".join(f"{names[seat]} {action.told()}" for seat, action in told)


FORMS: Mapping[str, Callable[[str, Task, int, Form], SeatView]] = {"chat": Chat, "published": Page, "compact": Compact}

STARTS = "The conversation starts."
PART = """\
You play {name} in a social situation. Speak and act as {name} would, from {name}'s background, and do what you can \
to reach {name}'s goal. The goal, and the secret if there is one, are known to you alone: what you reveal is up to \
you. Stay in character, be natural, and do not repeat what has been said."""
ANSWER = f"""\
In each turn you do one thing: speak, a gesture or look (non-verbal communication), an action, none (do nothing), or \
leave. You may leave once your goal is reached, or when you feel uncomfortable or lose interest. Answer with one JSON \
object and nothing else. Its action_type is one of {", ".join(KINDS)}; its argument is what you say, or what you do:
{Action("speak", "Hello, how are you?").written()}
{LEAVE.written()}"""
