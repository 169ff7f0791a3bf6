"""parley trains language models by letting them play dialogue games, and shows whether they got better.

What is imported from here is the public interface, together with `parley.games` (to write a game). Names are resolved
at first use, so that `import parley` loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {  # public name -> module of the package that defines it
    "Arena": "play.arena",
    "Backend": "play.player",
    "Credit": "credit.base",
    "Credited": "credit.base",
    "Episode": "data.episode",
    "EpisodeStore": "data.store",
    "HFBackend": "backends.hf",
    "InputError": "system.files",
    "LanguagePlayer": "play.players",
    "Learner": "learners.base",
    "Objective": "objectives.base",
    "Player": "play.player",
    "Renderer": "models.renderer",
    "Sampling": "play.player",
    "ScriptedPlayer": "play.players",
    "Seating": "play.pairing",
    "Snapshot": "models.snapshot",
    "Turn": "data.episode",
    "both_seatings": "play.pairing",
    "credited": "credit.base",
    "derive": "system.seeds",
    "fixed": "play.pairing",
    "load_policy": "models.load",
    "load_tokenizer": "models.load",
    "logs": "credit.base",
    "rng": "system.seeds",
    "self_play": "play.pairing",
}
__all__ = [  # the names above, as type checkers read them
    "Arena", "Backend", "Credit", "Credited", "Episode", "EpisodeStore", "HFBackend", "InputError", "LanguagePlayer",
    "Learner", "Objective", "Player", "Renderer", "Sampling", "ScriptedPlayer", "Seating", "Snapshot", "Turn",
    "__version__", "both_seatings", "credited", "derive", "fixed", "load_policy", "load_tokenizer", "logs", "rng",
    "self_play",
]  # fmt: skip

if TYPE_CHECKING:
    from .backends.hf import HFBackend
    from .credit.base import Credit, Credited, credited, logs
    from .data.episode import Episode, Turn
    from .data.store import EpisodeStore
    from .learners.base import Learner
    from .models.load import load_policy, load_tokenizer
    from .models.renderer import Renderer
    from .models.snapshot import Snapshot
    from .objectives.base import Objective
    from .play.arena import Arena
    from .play.pairing import Seating, both_seatings, fixed, self_play
    from .play.player import Backend, Player, Sampling
    from .play.players import LanguagePlayer, ScriptedPlayer
    from .system.files import InputError
    from .system.seeds import derive, rng


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
