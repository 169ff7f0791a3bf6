"""A command that names a run is composed from it: `run=RUN` and `resume=RUN` stand in the place of an experiment.

Nothing of what the run was begun with has to be said again, and words of the command change it. The run's config is
data (see `stored`). It becomes options of Hydra's groups, so that keys, groups and faults are those of any command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ..run.config import ConfigError, use_threads
from ..run.directory import SAVED, own, saved
from .stored import sound, stored
from .validation import OF_RUN

PLAYED = ("game", "players", "model", "backend")  # groups that must come from the run
OTHERS = ("league", "adapter", "scorer", "objective", "learner", "data", "benchmark", "guards")
EMPTY = ("league", "adapter", "scorer", "benchmark", "guards", "logger")  # groups with an option `none`
RESUMED = ("task", "logger")  # groups that a run goes on with
COMMANDS = (*RESUMED, "table", "hardware", "run", "runs", "match", "ratings")  # keys that are no run's
TASKS = "parley.cli.tasks."
LOOKING = tuple(
    TASKS + name for name in ("looking.", "exporting.", "measuring.compare")
)  # they read stored nodes alone


@dataclass(frozen=True)
class Led:
    """Words in front of a command's own, and the nodes of the options that they name, by group."""

    words: list[str] = field(default_factory=list)
    nodes: Mapping[str, Any] = field(default_factory=dict)

    def register(self) -> None:
        """Makes the options known to Hydra."""
        for group, node in self.nodes.items():
            package = "_global_" if group == "experiment" else group
            ConfigStore.instance().store(OF_RUN, node, group=group, package=package)


def led(words: Sequence[str], mine: Callable[[], DictConfig | None]) -> Led:
    """What leads the overrides `words`, so that they compose from the run that they name. Nothing where they name none,
    several, or an experiment, and where the task only looks at the run.

    `mine` composes what the command says by itself: addresses and code of one's own count as far as they are in it.
    ConfigError lists what in the run's config is not fit to be built.
    """
    said = dict(filter(None, map(_said, words)))
    run, resumed = _run(said)
    if run is None or "experiment" in said or (composed := mine()) is None:
        return Led()
    if not resumed and str(composed.task._target_).startswith(LOOKING):
        return Led()
    groups = [*PLAYED, *OTHERS, *(("hardware",) if resumed or own(run) else ()), *(RESUMED if resumed else ())]
    kept_out = ("resume",) if resumed else (*COMMANDS, "resume")
    whole = cast("dict[str, Any]", OmegaConf.to_container(saved(run)))
    root = {key: value for key, value in whole.items() if key in composed and key not in (*groups, *kept_out)}
    use_threads(composed)  # before a target is looked up
    sound(run, composed, root)
    nodes = stored(run, composed, *PLAYED)
    nodes |= stored(run, composed, *(each for each in groups if each not in PLAYED and each not in said), partly=True)
    chosen = {group: OF_RUN for group in groups if group in nodes and group not in said}
    empty = {group: "none" for group in EMPTY if group in groups and not whole.get(group) and group not in said}
    options = {**chosen, **empty, "experiment": OF_RUN}
    kept = ["hydra.output_subdir=null"] if resumed else []  # its .hydra says how it was begun
    return Led([*kept, *(f"{group}={option}" for group, option in options.items())], {**nodes, "experiment": root})


def _said(word: str) -> tuple[str, Any] | None:
    """The key of an override and its value, None for several; None where it cannot be read, which is told elsewhere."""
    try:
        parsed = OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):  # Hydra stumbles
        return None
    return parsed.get_key_element().lstrip("+~"), None if parsed.is_sweep_override() else parsed.value()


def _run(said: Mapping[str, Any]) -> tuple[Path | None, bool]:
    """The run that a command names, of several the first one, and whether it goes on with it."""
    for key in ("resume", "run", "runs"):
        value = said.get(key)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and first and _readable(Path(first)):
            return Path(first), key == "resume"
    return None, False


def _readable(run: Path) -> bool:
    """Whether `run` holds a config that can be read; where it does not, the task says so."""
    try:
        return (run / SAVED).is_file() and bool(saved(run))
    except (ConfigError, OSError):
        return False
