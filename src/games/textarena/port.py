"""The interface that the game needs of TextArena, and its implementation for version 0.7.

Environments are used under their "-raw" ids, without wrappers: then observations are separate messages with their
kinds, and the talk of others is not hidden. Each match has its own object, because wrapped ones keep messages of the
previous match.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias

from ...system.files import InputError

Kind: TypeAlias = Literal["action", "board", "message"]


@dataclass(frozen=True, slots=True)
class Told:
    """One message to a seat: its kind, its source (a seat's number, -1 for the game), and its text."""

    kind: Kind
    source: int
    text: str


class Port(Protocol):
    """One environment, for one match. Its methods call foreign code, which may raise anything or never return."""

    def reset(self, players: int, seed: int) -> None:
        """Starts a match for `players` seats."""

    def observe(self) -> tuple[object, Sequence[Told]]:
        """(the seat at turn, its new messages). A second call has no new messages."""

    def step(self, text: str) -> bool:
        """Applies the reply of the seat at turn; returns whether the match is over."""

    def errors(self) -> int:
        """The number of consecutive retried invalid moves."""

    def gone(self) -> Collection[int]:
        """The seats that are out of the match."""

    def invalid(self) -> Collection[int]:
        """The seats that are out, or lost, because of an invalid move."""

    def rewards(self) -> Mapping[int, object]:
        """The environment's rewards by seat; a seat may be missing."""


def library() -> ModuleType:
    """Imports TextArena. InputError if it is not installed, or has another version."""
    try:
        textarena = import_module("textarena")
        registry = import_module("textarena.envs.registration")
    except ModuleNotFoundError as error:
        raise InputError(
            f"game=textarena needs the package {error.name}: pip install 'parley-lm[textarena]'"
        ) from error
    if not hasattr(registry, "ENV_REGISTRY"):
        raise InputError("game=textarena needs textarena 0.7: pip install 'textarena>=0.7.4,<0.8'")
    return textarena


def environments() -> list[str]:
    """The ids of all registered environments that can be played raw."""
    registry: Mapping[str, object] = import_module("textarena.envs.registration").ENV_REGISTRY
    return sorted(name.removesuffix("-raw") for name in registry if name.endswith("-raw"))


class Raw:
    """The port to textarena 0.7: an environment without wrappers."""

    def __init__(self, env: str, options: Mapping[str, Any]) -> None:
        self._library = library()
        self._env = self._library.make(f"{env}-raw", **options)

    def reset(self, players: int, seed: int) -> None:
        self._env.reset(num_players=players, seed=seed)

    def observe(self) -> tuple[object, Sequence[Told]]:
        seat, seen = self._env.get_observation()
        return seat, [self._told(*message) for message in seen if isinstance(message, tuple) and len(message) == 3]

    def step(self, text: str) -> bool:
        done, _ = self._env.step(text)
        return bool(done)

    def errors(self) -> int:
        return int(getattr(self._env.state, "error_count", 0))

    def gone(self) -> Collection[int]:
        return frozenset(getattr(self._env.state, "elimination_order", ()))

    def invalid(self) -> Collection[int]:
        known = self._env.state.game_info.items()
        return frozenset(seat for seat, info in known if isinstance(seat, int) and info.get("invalid_move"))

    def rewards(self) -> Mapping[int, object]:
        rewards, _ = self._env.close()
        return dict(rewards or {})

    def _told(self, source: object, text: object, kind: object) -> Told:
        kinds = self._library.ObservationType
        names: dict[object, Kind] = {kinds.PLAYER_ACTION: "action", kinds.GAME_BOARD: "board"}
        return Told(names.get(kind, "message"), source if isinstance(source, int) else -1, str(text))
