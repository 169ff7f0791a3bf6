"""The random player of TextArena's environments: it finds legal moves in the text, as a model must."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from ..base import Request
from ..scripts import uniform

HEADING = re.compile(r"(?:available|valid|legal|possible) (?:moves|actions)(?: are)?:([^\n]*)", re.IGNORECASE)
BRACKETED = re.compile(r"\[[^\[\]\n]+\]")
TEMPLATE = re.compile(r"\bX\]$|[<>{}…]|\.\.")  # a template of replies such as [bet X], not a reply
SHORT = 24  # maximum characters of a bracketed text that may be a reply


def listed(lines: Sequence[str]) -> list[str]:
    """The replies in the newest list of legal moves in `lines`; empty without a list."""
    for line in reversed(lines):
        for found in reversed(HEADING.findall(line)):
            if moves := [move for move in BRACKETED.findall(found) if not TEMPLATE.search(move)]:
                return list(dict.fromkeys(moves))
    return []


def random(request: Request, own: Random, persona: Random) -> str:
    """One of the listed moves; without a list a short bracketed text from the view, or numbers."""
    if (request.observation or {}).get("legal"):
        return uniform(request, own, persona)
    told = [message.content for message in request.messages if message.role != "assistant"]
    forms = [form for text in {told[0]: 0, told[-1]: 0} for form in BRACKETED.findall(text) if len(form) <= SHORT]
    drawn = f"[{own.randrange(10)}]" if own.random() < 0.5 else f"[{own.randrange(8)} {own.randrange(8)}]"
    choice: str = own.choice([*dict.fromkeys(forms), drawn])
    return choice
