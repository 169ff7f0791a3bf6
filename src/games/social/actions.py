"""Actions of a character in a turn: speak, gesture, act, leave, or nothing.

A model writes an action as JSON, `{"action_type": "speak", "argument": "Hello"}`; others and the judge read it as text,
`said: "Hello"` (Zhou et al. 2023, arXiv:2310.11667). Both forms can be parsed back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..base import Illegal, Reply

KINDS = ("none", "speak", "non-verbal communication", "action", "leave")
WORDLESS = ("none", "leave")  # kinds that need no argument
_SAID = re.compile(r'said: "(.*)"')
_SHOWN = re.compile(r"\[(non-verbal communication|action)\] (.*)")


@dataclass(frozen=True, slots=True)
class Action:
    """An action: its kind, one of KINDS, and its text with single blanks."""

    kind: str
    argument: str = ""

    def written(self) -> str:
        """The action in the model's JSON form; `parse` reads it back."""
        return json.dumps({"action_type": self.kind, "argument": self.argument}, ensure_ascii=False)

    def told(self) -> str:
        """The action as text after the character's name; `heard` reads it back."""
        if self.kind == "speak":
            return f'said: "{self.argument}"'
        return {"none": "did nothing", "leave": "left the conversation"}.get(
            self.kind, f"[{self.kind}] {self.argument}"
        )


NONE, LEAVE = Action("none"), Action("leave")


def parse(reply: Reply) -> Action | Illegal:
    """The action in a reply: a JSON object, alone or within other text. Further keys are ignored."""
    if reply.finish == "refusal":
        return Illegal("refusal", "That was no action. Answer in character, with one JSON object.")
    text = reply.text
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError):
        return Illegal("no JSON", f"That is no JSON object. Answer with one, as {Action('speak', 'Hello.').written()}")
    kind, argument = found.get("action_type"), found.get("argument", "")
    if kind not in KINDS:
        return Illegal("no action", f"action_type must be one of {', '.join(KINDS)}.")
    if not isinstance(argument, str):
        return Illegal("no argument", "argument must be a text.")
    if kind in WORDLESS:
        return Action(kind)
    words = " ".join(argument.split())
    return Action(kind, words) if words else Illegal("no argument", f"The action {kind} needs an argument.")


def heard(text: str) -> Action | None:
    """The action from its text form `told`; None for other text."""
    if text in (NONE.told(), LEAVE.told()):
        return NONE if text == NONE.told() else LEAVE
    if said := _SAID.fullmatch(text):
        return Action("speak", said[1])
    return Action(shown[1], shown[2]) if (shown := _SHOWN.fullmatch(text)) else None
