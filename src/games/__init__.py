"""The games (environments) in plain Python, without models, tokens or torch.

Write your own game with the names in `__all__`; `conformance` checks it against the contract.
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
