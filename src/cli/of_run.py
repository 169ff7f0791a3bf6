"""Composes a command that names a run (`run=RUN`, `resume=RUN`) from that run's config, as from an experiment.

The settings of the run need not be repeated; overrides of the command change them. The run's config is untrusted data
(`stored.py`). It is registered as options of Hydra's groups, so composition and errors are those of any command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..run.config import ConfigError, use_threads
from ..run.contents import SAVED, saved
from ..run.directory import own
from .stored import sound, stored
from .validation import OF_RUN

PLAYED = ("game", "players", "model", "backend")  # groups that must be valid in the run
OTHERS = ("league", "adapter", "scorer", "objective", "learner", "data", "benchmark", "guards")
EMPTY = ("league", "adapter", "scorer", "benchmark", "guards", "logger")  # groups with an option `none`
RESUMED = ("task", "logger")  # groups taken from a resumed run
COMMANDS = (*RESUMED, "table", "hardware", "run", "runs", "match", "ratings")  # keys that belong to the command
TASKS = "parley.cli.tasks."
LOOKING = tuple(
    TASKS + name for name in ("looking.", "exporting.", "measuring.compare")
)  # build stored nodes themselves


@dataclass(frozen=True)
class Base:
    """Overrides to put before a command's own, and the config nodes of the options they name, by group."""

    words: list[str] = field(default_factory=list)
    nodes: Mapping[str, Any] = field(default_factory=dict)

    def register(self) -> None:
        """Registers the options with Hydra."""
        for group, node in self.nodes.items():
            package = "_global_" if group == "experiment" else group
            ConfigStore.instance().store(OF_RUN, node, group=group, package=package)


def base(words: Sequence[str], alone: Callable[[], DictConfig | None]) -> Base:
    """The base of the overrides `words`: the run that they name. Empty if they name none or an experiment, or if the
    task only looks at the run.

    `alone` composes the command without the run; only addresses and code that it names itself are accepted from the
    run. ConfigError lists everything in the run's config that must not be built.
    """
    said = dict(filter(None, map(_said, words)))
    run, resumed = _run(said)
    if run is None or "experiment" in said or (composed := alone()) is None:
        return Base()
    if not resumed and str(composed.task._target_).startswith(LOOKING):
        return Base()
    groups = [*PLAYED, *OTHERS]
    if resumed or own(run):
        groups.append("hardware")
    if resumed:
        groups.extend(RESUMED)
    kept_out = ("resume",) if resumed else (*COMMANDS, "resume")
    old = saved(run)
    _say(said, composed, old)
    whole = cast("dict[str, Any]", OmegaConf.to_container(old))
    root = {key: value for key, value in whole.items() if key in composed and key not in (*groups, *kept_out)}
    use_threads(composed)  # before a target is looked up
    sound(run, composed, root)
    nodes = stored(run, composed, *PLAYED, old=old)
    others = (each for each in groups if each not in PLAYED and each not in said)
    nodes |= stored(run, composed, *others, old=old, partly=True)
    chosen = {group: OF_RUN for group in groups if group in nodes and group not in said}
    empty = {group: "none" for group in EMPTY if group in groups and not whole.get(group) and group not in said}
    options = {**chosen, **empty, "experiment": OF_RUN}
    kept = ["hydra.output_subdir=null"] if resumed else []  # keeps the .hydra folder of its start
    return Base([*kept, *(f"{group}={option}" for group, option in options.items())], {**nodes, "experiment": root})


def _said(word: str) -> tuple[str, Any] | None:
    """The key and value of an override (None for a sweep's values); None if it cannot be parsed, reported elsewhere."""
    try:
        parsed = OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):  # Hydra stumbles
        return None
    return parsed.get_key_element().lstrip("+~"), None if parsed.is_sweep_override() else parsed.value()


def _say(said: Mapping[str, Any], composed: DictConfig, old: DictConfig) -> None:
    """Puts the keys that the command sets into both configs, so that the run's own values of them are not judged."""
    for key, value in said.items():
        node, dot, _ = key.partition(".")  # not a choice of an option, as in backend@opponents.critic.backend=openai
        if dot and node != "hydra" and node in composed and value is not None:
            with suppress(OmegaConfBaseException, AssertionError):  # Hydra says what is wrong with the override
                OmegaConf.update(composed, key, value, force_add=True)
                OmegaConf.update(composed, key, now := OmegaConf.select(composed, key))  # with ${…} resolved
                OmegaConf.update(old, key, now, force_add=True)


def _run(said: Mapping[str, Any]) -> tuple[Path | None, bool]:
    """The run that a command names (the first of several), and whether the command resumes it."""
    for key in ("resume", "run", "runs"):
        value = said.get(key)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and first and _readable(Path(first)):
            return Path(first), key == "resume"
    return None, False


def _readable(run: Path) -> bool:
    """Whether `run` has a readable config; otherwise the task reports it."""
    try:
        return (run / SAVED).is_file() and bool(saved(run))
    except (ConfigError, OSError):
        return False
