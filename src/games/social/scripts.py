"""A scripted character, for tests and demos."""

from __future__ import annotations

import json
from random import Random

from ..base import Request
from .actions import LEAVE, Action

SENTENCES = (
    "Hello! How are you?", "I had something else in mind.", "Could we find a way that suits us both?",
    "That sounds fair.", "I am not sure about that.", "Let me think.", "What matters most to you here?",
)  # fmt: skip


def chatty(request: Request, own: Random, persona: Random) -> str:
    """Says one of a few sentences, now and then with a nod; leaves after some turns."""
    assert request.observation is not None
    turn, compact = request.observation["turn"], request.observation["prompt"] == "compact"
    if turn > 4 and own.random() < 0.2:
        action = LEAVE
    elif own.random() < 0.1:
        action = Action("non-verbal communication", "nods")
    else:
        action = Action("speak", own.choice(SENTENCES))
    return (
        f"{action.kind} {action.argument}".strip()
        if compact
        else json.dumps({"action_type": action.kind, "argument": action.argument})
    )
