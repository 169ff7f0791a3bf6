"""Composes command lines with Hydra, and says why one does not compose."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..run.config import ConfigError, leaves
from ..system.naming import nearest
from .validation import OF_RUN

CONF, NAME = "parley.conf", "config"
SYNTAX = frozenset(",=:{}[]()'\"\\$")
WRONG = (HydraException, OmegaConfBaseException, YAMLError, AssertionError)  # OmegaConf asserts below ${…}
GLOBAL = ("experiment", "debug", "local")  # groups whose files set keys of the root


def refuse(faults: Sequence[str]) -> None:
    """ConfigError with all of the faults, if there are any."""
    if faults:
        many = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        head = f"{many}, nothing was run (parley --help lists groups, keys and examples)"
        raise ConfigError("\n  - ".join([head, *faults]))


@contextmanager
def composer(config_dir: str | None) -> Iterator[None]:
    """Hydra's compose for this package's `conf/`, and `config_dir` if given; restores global state."""
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    path = create_config_search_path(f"pkg://{CONF}")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            refuse([f"--config-dir: there is no directory {config_dir}"])
        path.prepend("command-line", f"file://{Path(config_dir).absolute()}", anchor="schema")
    try:
        Hydra.create_main_hydra2("parley", path)
        yield
    finally:
        Singleton.set_state(before)


def composed(name: str, overrides: Sequence[str]) -> tuple[DictConfig | None, list[str]]:
    """(the config, []); if that fails, the config of the valid overrides, and the fault of each other one."""
    try:
        return _compose(name, overrides), []
    except WRONG as error:
        try:
            base = _compose(name, [])
        except WRONG:
            return None, [_told(error)]
    good: list[str] = []
    faults: list[str] = []
    doubtful: set[str] = set()  # nodes whose group option is invalid: their keys are not checked
    groups = set(GlobalHydra.instance().config_loader().list_groups(""))
    searchpath_first = sorted(overrides, key=lambda text: (not text.startswith("hydra."), _key(text) not in groups))
    for override in searchpath_first:
        try:
            base = _compose(name, [*good, override])
            good.append(override)
        except WRONG as error:
            if _key(override) in groups:
                doubtful |= {_key(override)} if _key(override) != "experiment" else groups
                faults += _file_faults(override, base, groups) or [_explain(override, error, base, groups)]
            elif _key(override).split(".")[0] not in doubtful:
                faults.append(_explain(override, error, base, groups))
    return base, faults


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    try:
        return hydra.compose(name, list(overrides), return_hydra_config=True)
    except WRONG:
        raise
    except (ValueError, TypeError, LookupError, OSError, ArithmeticError, RecursionError) as error:  # in Hydra
        raise HydraException(str(error)[:200]) from error


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~").split("@")[0]


def _explain(override: str, error: Exception, base: DictConfig, groups: set[str]) -> str:
    key, cause = _key(override), error.__cause__
    if key in groups and not re.fullmatch(r"(?!(null|true|false|[\d.]+)$)[\w./-]+", override.partition("=")[2]):
        options = GlobalHydra.instance().config_loader().get_group_options(key)
        named = ", ".join(option for option in options if option != OF_RUN)
        return f"{_short(override)}: a group takes the name of an option: {named}"
    if isinstance(error, OverrideParseException):
        return _unreadable(override)
    if isinstance(error, MissingConfigException):
        group, _, option = (error.missing_cfg_file or override.replace("=", "/")).rpartition("/")
        asks = override if group == key else f"{override} asks for {group}={option}"
        return f"{asks}: the group {group} has no such option{_options(option, error)}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return f"{override}: there is no key {key}{_nearest_key(key, base, groups)}"
    if isinstance(error, AssertionError):  # below a node that ${…} replaces
        return f"{_short(override)}: {key.rpartition('.')[0]} is set to a single value, and holds no keys"
    return f"{override}: {_told(error)}"


def _unreadable(override: str) -> str:
    """Why an override cannot be parsed, and how to quote it, if that helps."""
    key, equals, value = override.partition("=")
    found = sorted(set(value) & SYNTAX)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{key}="{escaped}"'
    try:
        OverridesParser.create().parse_override(quoted)
    except WRONG:
        found = []
    if not equals or not found or value[0] in "[{":
        return f"{_short(override)}: cannot be read; write key=value, lists as key=[a,b], mappings as key={{a: 1}}"
    held = " ".join(f"`{mark}`" for mark in found)
    return (
        f"{_short(override)}: its value holds {held}, which Hydra reads as syntax: quote it for Hydra and for the "
        f"shell, {_short(shlex.quote(quoted))}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _options(option: str, error: MissingConfigException) -> str:
    options = [each for each in error.options or () if each != OF_RUN]
    close = get_close_matches(option, options, n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" It has {', '.join(options)}"


def _file_faults(override: str, base: DictConfig, groups: set[str]) -> list[str]:
    """Faults of a chosen option's file against the schema; [] if there are none."""
    name = override.replace("=", "/")
    try:
        file = GlobalHydra.instance().config_loader().repository.load_config(name)  # type: ignore[attr-defined]
    except (*WRONG, OSError):
        return []
    if file is None or not isinstance(file.config, DictConfig):
        return []
    if _key(override) in GLOBAL and file.header.get("package") != "_global_":
        return [f"{name}.yaml: its first line must be `# @package _global_`, since it sets keys of the root"]
    prefix = "" if file.header.get("package") == "_global_" else f"{_key(override)}."
    content = cast("dict[str, Any]", OmegaConf.to_container(file.config))
    values = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    return [
        fault for key, value in leaves(values) if (fault := _leaf_fault(name, f"{prefix}{key}", value, base, groups))
    ]


def _leaf_fault(name: str, key: str, value: Any, base: DictConfig, groups: set[str]) -> str:
    trial = copy.deepcopy(base)
    OmegaConf.set_struct(trial, None)  # typed nodes stay closed, others are open
    try:
        OmegaConf.update(trial, key, value)
    except (ConfigAttributeError, ConfigKeyError):
        return f"{name}.yaml: there is no key {key}{_nearest_key(key, base, groups)}"
    except OmegaConfBaseException as error:
        return f"{name}.yaml: {key}: {str(error).splitlines()[0]}"
    return ""


def _nearest_key(key: str, base: DictConfig, groups: set[str]) -> str:
    """The nearest full key; else keys with the nearest last part; else the keys beside it."""
    names = [name for name in _names(base) if not name.startswith("hydra")] + sorted(groups)
    close = get_close_matches(key, names, n=1, cutoff=0.75)
    if close:
        return f"; did you mean {close[0]}?"
    parent, _, last = key.rpartition(".")
    ends = get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=1, cutoff=0.75)
    if ends:
        return f"; did you mean {' or '.join(name for name in names if name.rpartition('.')[2] == ends[0])}?"
    return nearest(last, [name.rpartition(".")[2] for name in names if name.rpartition(".")[:2] == (parent, ".")])


def _names(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for name in map(str, node):
            yield f"{prefix}{name}"
            if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
                yield from _names(node[name], f"{prefix}{name}.")


def _told(error: BaseException) -> str:
    """An error of Hydra or OmegaConf in one line, its cause included."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines = ([] if lines[0].startswith("Error merging override") else lines) + str(error.__cause__).splitlines()[:1]
    return "; ".join(lines)


def jobs(overrides: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The command line of each job of a sweep, and the faults of overrides that cannot be read. A range without steps
    (for an optimising sweeper) is left out, because its values are unknown."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    readable: list[list[str]] = []
    faults: list[str] = []
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
            readable.append(_values(parsed, text))
        except WRONG as error:
            faults.append(_explain(text, error, DictConfig({}), set()))
    return [list(job) for job in product(*[values for values in readable if values])], faults


def _values(override: Override, text: str) -> list[str]:
    if not override.is_sweep_override():
        return [text]
    values = override.sweep_string_iterator() if override.is_discrete_sweep() else ()
    return [f"{override.get_key_element()}={value}" for value in values]
