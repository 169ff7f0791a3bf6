"""The rules of the games, in plain Python: nothing here knows a model, a token or torch.

The names below are what a game of your own is written with; `conformance` checks it against the contract.
"""

from . import conformance
from .base import (
    Facts,
    Game,
    GeneratorMatch,
    Illegal,
    Json,
    Marks,
    Match,
    Message,
    Options,
    Out,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Tool,
    Turns,
    Unreachable,
    View,
    legal,
)
from .splits import split

__all__ = [
    "Facts",
    "Game",
    "GeneratorMatch",
    "Illegal",
    "Json",
    "Marks",
    "Match",
    "Message",
    "Options",
    "Out",
    "Reply",
    "Request",
    "Result",
    "Scenario",
    "Script",
    "Tool",
    "Turns",
    "Unreachable",
    "View",
    "conformance",
    "legal",
    "split",
]
