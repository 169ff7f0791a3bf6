"""The grammar of the agent's replies: a thought and an action, a line each, after ReAct (arXiv:2210.03629).

    Thought: I need to know who directed it.
    Action: search[director of Tetro]

The thought may be missing. Other text before, between or after these lines, a second action, or brackets inside the
argument make a reply illegal. The published parser splits at "Action: " and "[" and drops the last character, so it
finds an action in almost anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..base import Illegal, Reply

REASONS = ("no action", "unknown action", "no argument", "cut", "refusal")
FINISH = "finish"
STOP = "\nObservation:"  # stop string: the observation comes from the tool

_REPLY = re.compile(
    r"\s*(?:Thought:[ \t]*(?P<thought>[^\n]*)\n\s*)?Action:[ \t]*(?P<name>\w+)[ \t]*\[(?P<argument>[^\[\]\n]*)\]\s*"
)


@dataclass(frozen=True, slots=True)
class Action:
    """An action: the name of a tool or `finish`, and its argument with folded white space."""

    name: str
    argument: str
    thought: str = ""

    def text(self) -> str:
        """The canonical text of the reply."""
        thought = f"Thought: {self.thought}\n" if self.thought else ""
        return f"{thought}Action: {self.name}[{self.argument}]"


def parse(reply: Reply, tools: Collection[str]) -> Action | Illegal:
    """Parses the action of a reply; `tools` are the allowed names besides `finish`."""
    if reply.finish in ("length", "refusal"):
        return _illegal("cut" if reply.finish == "length" else "refusal", tools)
    if (found := _REPLY.fullmatch(reply.text)) is None:
        return _illegal("no action", tools)
    if found["name"] not in (FINISH, *tools):
        return _illegal("unknown action", tools)
    if not (argument := " ".join(found["argument"].split())):
        return _illegal("no argument", tools)
    return Action(found["name"], argument, (found["thought"] or "").strip())


def _illegal(reason: str, tools: Collection[str]) -> Illegal:
    actions = " or ".join(f"{name}[…]" for name in (*tools, FINISH))
    return Illegal(reason, f"Invalid ({reason}). Write a line Thought: … and a line Action: {actions}")
