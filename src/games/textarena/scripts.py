"""The random player of TextArena's environments: it reads what is legal off the text, as a model would."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from ..base import Request
from ..scripts import uniform

HEADING = re.compile(r"(?:available|valid|legal|possible) (?:moves|actions)(?: are)?:([^\n]*)", re.IGNORECASE)
BRACKETED = re.compile(r"\[[^\[\]\n]+\]")
TEMPLATE = re.compile(r"\bX\]$|[<>{}…]|\.\.")  # stands for replies, as [bet X] does, and is none itself
SHORT = 24  # characters of a bracketed text that may be a reply


def listed(lines: Sequence[str]) -> list[str]:
    """The replies that the newest list of legal moves in `lines` names; none where there is no list."""
    for line in reversed(lines):
        for found in reversed(HEADING.findall(line)):
            if moves := [move for move in BRACKETED.findall(found) if not TEMPLATE.search(move)]:
                return list(dict.fromkeys(moves))
    return []


def random(request: Request, own: Random, persona: Random) -> str:
    """One of the listed moves; where none are listed a short text in brackets, as the view has some, or numbers."""
    if (request.observation or {}).get("legal"):
        return uniform(request, own, persona)
    told = [message.content for message in request.messages if message.role != "assistant"]
    forms = [form for text in {told[0]: 0, told[-1]: 0} for form in BRACKETED.findall(text) if len(form) <= SHORT]
    drawn = f"[{own.randrange(10)}]" if own.random() < 0.5 else f"[{own.randrange(8)} {own.randrange(8)}]"
    choice: str = own.choice([*dict.fromkeys(forms), drawn])
    return choice
