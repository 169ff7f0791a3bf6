"""parley trains language models by letting them play dialogue games, and shows whether they got better.

The names in `__all__` are the public interface, with those of `parley.games` (to write a game). They are resolved at
first use, so that `import parley` loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {  # public name -> module of the package that defines it
    "Arena": "play.arena",
    "Backend": "play.player",
    "Columns": "objectives.base",
    "Credit": "credit.base",
    "Credited": "credit.base",
    "Episode": "data.episode",
    "EpisodeStore": "data.store",
    "HFBackend": "backends.hf",
    "InputError": "system.files",
    "LanguagePlayer": "play.players",
    "Learner": "learners.base",
    "Log": "credit.base",
    "NothingKept": "credit.base",
    "Objective": "objectives.base",
    "Player": "play.player",
    "Renderer": "models.renderer",
    "Sample": "data.sample",
    "Sampling": "play.player",
    "Scorer": "data.scorer",
    "Scores": "data.scorer",
    "ScriptedPlayer": "play.players",
    "Seating": "play.pairing",
    "Session": "learners.session",
    "Snapshot": "models.snapshot",
    "Turn": "data.episode",
    "Utterance": "data.sample",
    "both_seatings": "play.pairing",
    "credited": "credit.base",
    "derive": "system.seeds",
    "fixed": "play.pairing",
    "load_policy": "models.load",
    "load_snapshot": "run.contents",
    "load_tokenizer": "models.load",
    "logs": "credit.base",
    "play_match": "run.match",
    "rng": "system.seeds",
    "self_play": "play.pairing",
    "transcript": "run.match",
}
__all__ = [  # the names above, as type checkers read them
    "Arena", "Backend", "Columns", "Credit", "Credited", "Episode", "EpisodeStore", "HFBackend", "InputError",
    "LanguagePlayer", "Learner", "Log", "NothingKept", "Objective", "Player", "Renderer", "Sample", "Sampling",
    "Scorer", "Scores", "ScriptedPlayer", "Seating", "Session", "Snapshot", "Turn", "Utterance", "__version__",
    "both_seatings", "credited", "derive", "fixed", "load_policy", "load_snapshot", "load_tokenizer", "logs",
    "play_match", "rng", "self_play", "transcript",
]  # fmt: skip

if TYPE_CHECKING:
    from .backends.hf import HFBackend
    from .credit.base import Credit, Credited, Log, NothingKept, credited, logs
    from .data.episode import Episode, Turn
    from .data.sample import Sample, Utterance
    from .data.scorer import Scorer, Scores
    from .data.store import EpisodeStore
    from .learners.base import Learner
    from .learners.session import Session
    from .models.load import load_policy, load_tokenizer
    from .models.renderer import Renderer
    from .models.snapshot import Snapshot
    from .objectives.base import Columns, Objective
    from .play.arena import Arena
    from .play.pairing import Seating, both_seatings, fixed, self_play
    from .play.player import Backend, Player, Sampling
    from .play.players import LanguagePlayer, ScriptedPlayer
    from .run.contents import load_snapshot
    from .run.match import play_match, transcript
    from .system.files import InputError
    from .system.seeds import derive, rng


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
