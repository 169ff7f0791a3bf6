"""Nodes of a stored run's config. Runs are untrusted: their config is checked before anything is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from ..run.config import ConfigError
from ..run.contents import saved
from ..system.files import REFUSED, read_text
from ..system.naming import locate
from .nodes import node_faults

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
    "learner": (("learners",), ()),
    "adapter": (("models.adapter",), ("create",)),
    "league": (("run.matchmaking", "play.matching"), ()),
    "guards": (("run.guards",), ("alarms",)),
    "benchmark": (("run.harness",), ("check",)),
    "logger": (("report.trackers",), ("open",)),
    "task": (("cli.tasks.training",), ()),
}
PRIVATE = ("url", "urls", "key_env", "download")
"""Arguments that decide where prompts and keys are sent, and whether a hub is asked for a model. Only the command may
set them, never a stored config."""
COMPUTED = re.compile(r"\$\{.*:", re.DOTALL)
"""A `${resolver:…}`, whose name may itself hold a `${key}`."""
IN_LIST = re.compile(r"\.\d+(\..*)?$")
"""The end of a key inside a list. An override can only replace the whole list."""
CHECKOUT = "parley.games.clembench."
"""Games whose `path` is a folder of code. It, too, is the command's to say."""


def stored(
    run: Path, config: DictConfig, *names: str, old: DictConfig | None = None, partly: bool = False
) -> dict[str, DictConfig]:
    """The nodes `names` of the stored config of `run`, checked; null ones are left out. `old` is that config if some
    of its values are already the command's.

    ConfigError lists what is wrong: a `_target_` at any depth that is neither a class of parley of the node's kind nor
    a target of the same node in `config`, which the command itself composes, nor one that its own config folders
    name; a `${resolver:…}`; a server's address, a download or a folder of code that the command does not name; and
    whatever a composed node may not hold. (`partly`: a node whose only fault is the last one is left out.)
    """
    old, nodes, faults = saved(run) if old is None else old, {}, []
    written = cast("dict[str, Any]", OmegaConf.to_container(old))
    for name in names:
        if (raw := written.get(name)) is None:
            continue
        if not isinstance(raw, Mapping):
            faults.append(f"{name} is no mapping")
        elif wrong := _unfit(raw, name, config):
            faults += wrong
        else:
            node, found = _resolved(old[name], name)
            if node is not None and not found:
                nodes[name] = node
            elif not partly:
                faults += found
    _raise(run, faults)
    return nodes


def _resolved(node: DictConfig, name: str) -> tuple[DictConfig | None, list[str]]:
    """A stored node with its `${key}`s filled in, and its faults."""
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        return None, [f"{name}: {str(error).splitlines()[0]}"]
    return DictConfig(plain), node_faults(plain, name)


def sound(run: Path, config: DictConfig, values: Mapping[str, Any]) -> None:
    """ConfigError where a root key of the config of `run` may not be composed, as `stored` says of nodes."""
    _raise(run, [fault for name, value in values.items() for fault in _unfit(value, name, config)])


def same_game(run: Path, config: DictConfig) -> None:
    """ConfigError where `run` played another game than the one that `config` composes."""
    its, mine = (OmegaConf.select(each, "game._target_") for each in (saved(run), config))
    if its != mine:
        raise ConfigError(f"{run} played {its}, and this command composes {mine}: leave out experiment= and game=")


def _raise(run: Path, faults: list[str]) -> None:
    if faults:
        raise ConfigError("\n  - ".join([f"{run}: nothing is built from its config", *faults]))


def _unfit(raw: Any, name: str, config: DictConfig) -> list[str]:
    """What in a stored value could run code, read the environment or send a key."""
    mine = OmegaConf.to_container(config[name]) if OmegaConf.is_config(config.get(name)) else {}
    return [*_strange(raw, name, _targets(mine) | _own_targets()), *_private(raw, mine, name)]


def _own_targets() -> set[str]:
    """The targets in the YAML files of the command's own config folders (--config-dir, hydra.searchpath)."""
    hydra = GlobalHydra.instance()
    sources = hydra.config_loader().get_sources() if hydra.is_initialized() else []
    folders = [Path(each.path) for each in sources if each.scheme() == "file"]
    return {target for folder in folders for path in folder.rglob("*.yaml") for target in _named_in(path)}


def _named_in(path: Path) -> set[str]:
    try:
        return _targets(safe_load(read_text(path)))
    except (YAMLError, *REFUSED):  # Hydra says what is wrong with it
        return set()


def _strange(value: Any, key: str, mine: set[str]) -> Iterator[str]:
    """Parts of a stored node, at any depth, that could run code or read the environment."""
    if isinstance(value, Mapping):
        target, kind = value.get("_target_", ""), key if key in CONTRACTS else key.split(".")[0]
        if "_target_" in value and str(target) not in mine and not _kept(target, kind):
            yield (
                f"{key}._target_: {target!r} is no {kind} of parley, and the command does not name it; if it is yours, "
                f"say python -m parley --config-dir FOLDER, where a YAML of FOLDER names it"
            )
        if "defaults" in value and "." not in key:  # Hydra would compose it
            yield f"{key}.defaults: a stored node names no further options"
        for name, part in value.items():
            yield from _strange(part, f"{key}.{name}", mine)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _strange(part, f"{key}.{number}", mine)
    elif isinstance(value, str) and COMPUTED.search(value):
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
    if kind == "task":
        return inspect.isfunction(found)
    return inspect.isclass(found) and all(callable(getattr(found, name, None)) for name in methods)


def _targets(value: Any) -> set[str]:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = {value["_target_"]} if isinstance(value, Mapping) and isinstance(value.get("_target_"), str) else set()
    return own.union(*map(_targets, parts))


def _private(raw: Any, mine: Any, key: str) -> Iterator[str]:
    """Parts of a stored node, at any depth, that ask another machine or run a folder's code, unless `mine` has them."""
    if isinstance(raw, list):
        others = mine if isinstance(mine, list) and len(mine) == len(raw) else [None] * len(raw)
        for number, pair in enumerate(zip(raw, others, strict=True)):
            yield from _private(*pair, f"{key}.{number}")
    for name, value in raw.items() if isinstance(raw, Mapping) else ():
        own = mine.get(name) if isinstance(mine, Mapping) else None
        online = key.split(".")[0] == "logger" and name == "mode" and value not in ("offline", "disabled")
        sends = (name in PRIVATE and value not in (None, False)) or online
        runs = name == "path" and str(raw.get("_target_")).startswith(CHECKOUT)
        if (sends or runs) and value != own:
            place = f"{key}.{name}"
            yield f"{place} is {value!r}: say {IN_LIST.sub('', place)}=… on the command line if it is to be used"
        else:
            yield from _private(value, own, f"{key}.{name}")
