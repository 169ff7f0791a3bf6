"""Nodes of a stored run's config. Runs are untrusted: their config is checked before anything is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ..run.config import ConfigError
from ..run.directory import saved
from ..system.naming import locate
from .validation import node_faults

CONTRACTS = {  # node -> (allowed packages of its class, required methods)
    "game": (("games",), ("scenarios", "match", "scripts")),
    "game.questions": (("games",), ("scenarios", "scripts")),
    "backend": (("backends",), ("load", "submit", "poll")),
    "model": (("models", "backends"), ("create",)),
    "data": (("data.sources",), ("demonstrations",)),
    "scorer": (("data",), ("game",)),
    "objective": (("credit", "objectives"), ()),
    "imitate": (("objectives", "learners"), ()),
    "policies": (("models", "credit", "objectives", "learners"), ()),
    "schedule": (("credit", "objectives", "learners"), ()),
}
PRIVATE = ("url", "key_env")
"""Arguments that decide where prompts and keys are sent. Only the command may set them, never a stored config."""


def stored(run: Path, config: DictConfig, *names: str) -> dict[str, DictConfig]:
    """The nodes `names` of the stored config of `run`, checked; null ones are left out.

    ConfigError lists the faults: a `_target_` at any depth that is neither a class of parley of the node's kind nor a
    target of the same node in `config`, which the command composes; a `${resolver:…}`; a server's address that the
    command does not name; and all faults of composed nodes.
    """
    old, nodes, faults = saved(run), {}, []
    written = cast("dict[str, Any]", OmegaConf.to_container(old))
    for name in names:
        if (raw := written.get(name)) is None:
            continue
        mine = OmegaConf.to_container(config[name]) if OmegaConf.is_config(config.get(name)) else {}
        if not isinstance(raw, Mapping):
            faults.append(f"{name} is no mapping")
        elif wrong := [*_strange(raw, name, _targets(mine)), *_private(raw, mine, name)]:
            faults += wrong
        else:
            nodes[name] = DictConfig(OmegaConf.to_container(old[name], resolve=True))
            faults += node_faults(OmegaConf.to_container(nodes[name]), name)
    if faults:
        raise ConfigError("\n  - ".join([f"{run}: nothing is built from its config", *faults]))
    return nodes


def as_begun(run: Path, config: DictConfig) -> None:
    """Overrides `config` with the stored game, backend, model and policies of `run`, and adds its `players` and
    `opponents` that `config` does not set."""
    for node, value in stored(run, config, "game", "backend", "model", "policies", "players", "opponents").items():
        config[node] = {**value, **config[node]} if node in ("players", "opponents") else value


def _strange(value: Any, key: str, mine: set[str]) -> Iterator[str]:
    """Parts of a stored node, at any depth, that could run code or read the environment."""
    if isinstance(value, Mapping):
        target, kind = value.get("_target_", ""), key if key in CONTRACTS else key.split(".")[0]
        if "_target_" in value and str(target) not in mine and not _kept(target, kind):
            yield f"{key}._target_: {target!r} is no {kind} of parley, and the command does not name it"
        for name, part in value.items():
            yield from _strange(part, f"{key}.{name}", mine)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _strange(part, f"{key}.{number}", mine)
    elif isinstance(value, str) and re.search(r"\$\{[^}]*:", value):
        yield f"{key}: {value!r} would be computed; give the value on the command line"


def _kept(target: Any, kind: str) -> bool:
    """Whether `target` names a class of parley that fulfils the contract of the node `kind`."""
    rooms, methods = CONTRACTS.get(kind, ((), ()))
    if not isinstance(target, str) or not any(target.startswith(f"parley.{room}.") for room in rooms):
        return False
    try:
        found = locate(target)
    except LookupError:
        return False
    return inspect.isclass(found) and all(callable(getattr(found, name, None)) for name in methods)


def _targets(value: Any) -> set[str]:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = {value["_target_"]} if isinstance(value, Mapping) and isinstance(value.get("_target_"), str) else set()
    return own.union(*map(_targets, parts))


def _private(raw: Mapping[str, Any], mine: Any, key: str) -> Iterator[str]:
    for name, value in raw.items():
        own = mine.get(name) if isinstance(mine, Mapping) else None
        if name in PRIVATE and value is not None and value != own:
            yield f"{key}.{name} is {value!r}: say {key}.{name}=… on the command line if it is to be used"
        elif isinstance(value, Mapping):
            yield from _private(value, own, f"{key}.{name}")
