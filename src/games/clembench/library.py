"""Imports clemcore without its side effects, and patches it where clembench needs that.

Its import reconfigures logging, which disables all existing loggers and writes clembench.log. It also needs openenv,
with gradio and a web server, to serve games over the network; parley plays them in its own process instead.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import logging.config
import sys
from collections.abc import Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

from ...system.files import InputError

NEEDED = "game=clembench needs clemcore 3.5 to 3.x and greenlet: make clembench"


@cache
def library() -> SimpleNamespace:
    """The used parts of clemcore. InputError if it or one of its requirements is not installed."""
    try:
        with _undisturbed(), _without_openenv():
            game, recorder, backends = (
                importlib.import_module(f"clemcore.{name}") for name in ("clemgame", "clemgame.recorder", "backends")
            )
            switch = importlib.import_module("greenlet")
    except ModuleNotFoundError as error:
        raise InputError(f"{NEEDED} ({error.name} is not installed)") from error
    logging.getLogger("clemcore").setLevel(logging.CRITICAL)  # thousands of lines a match
    if not hasattr(game, "GameInstances"):
        raise InputError(f"{NEEDED} (this clemcore is another version)")
    _mend(game.GameMaster, game.GameState)
    return SimpleNamespace(
        greenlet=switch.greenlet,
        current=switch.getcurrent,
        GameBenchmark=game.GameBenchmark,
        GameRegistry=game.GameRegistry,
        Interactions=recorder.GameInteractionsRecorder,
        Calls=recorder.EventCallRecorder,
        Model=backends.Model,
        ModelSpec=backends.ModelSpec,
        version=importlib.import_module("clemcore").get_version(),
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Blocks the configuration of logging inside the block."""
    real = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = real


@contextmanager
def _without_openenv() -> Iterator[None]:
    """Replaces `openenv`, if not installed, by a module whose names are empty classes, inside the block."""
    if importlib.util.find_spec("openenv"):
        yield
        return
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Empty(ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012 - a module's, as the import system wants it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__class_getitem__": classmethod(lambda cls, item: cls)})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        ours = fullname.split(".")[0] == "openenv"
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _mend(master: Any, state: Any) -> None:
    """Makes games with their own state class run with clemcore 3.7.1 and later, and games that use numpy.NaN run with
    NumPy 2."""
    fields: Mapping[str, Any] = vars(state())

    def replaced(self: Any, new: Any) -> None:
        old = getattr(self, "_state", None)
        for field in fields if old is not None else ():
            if getattr(new, field, None) is None:
                setattr(new, field, getattr(old, field, None))
        self._state = new

    master.state = property(lambda self: self._state, replaced)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and not hasattr(numpy, "NaN"):
        numpy.NaN = numpy.nan
