"""Finds all faults of a composed config before anything is built.

Checks the root and the hardware against their dataclasses, and nodes with a `_target_` against the target's signature
and annotations.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from ..report.redact import hidden, login, secret
from ..run.config import OWN, SCHEDULED, Config, ConfigError, Opponent, leaves, overlaid
from ..run.contents import SAVED, saved
from ..run.directory import ALIKE, FOLDER_NAME, changed_keys, grown, longer
from ..system.bounds import Bound, finite
from ..system.naming import locate, nearest


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the dotted key, and the reason."""

    key: str
    text: str


class _Unknown:
    """Marks a missing or uncomputable value that has been reported already."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = _Unknown()
OF_RUN = "of_run"  # the option of each group that is what a run was begun with
SECRET = "looks like a key, and keys come from the environment only: name the variable that holds it (key_env)"
LOGIN = "holds a login, which the run's files would show: take the address from the environment, ${oc.env:NAME}"
OUTSIDE = ("backend", "learner", "model", "logger", "data", "opponents", "policies")
"""Nodes that contact servers: in them a key's name suffices to treat its value as a secret."""
UNBUILT = dict.fromkeys(
    ("parley.cli.tasks.planning.plan", "parley.cli.tasks.measuring.benchmark"), ("game", "model", "data")
)
"""Nodes that a task may not need: missing values are no faults (wrong values are)."""


def validate(config: DictConfig, choices: Mapping[str, str], out: Path | None = None) -> list[str]:
    """All faults of a composed config, one line each; empty if it can run. Imports the targets, builds nothing.

    `choices` maps groups to chosen options (Hydra's runtime.choices), `out` is the run's directory.
    """
    faults: list[Fault] = []
    plain = _plain(config, "", faults)
    faults = [
        fault
        for fault in faults
        if fault.key.split(".")[0] not in UNBUILT.get(OmegaConf.select(config, "task._target_"), ())
    ]
    faults += _shape(plain, Config, "")
    for key, value in plain.items():
        faults += _targets(value, key)
    faults += _unchosen(plain)
    faults += _places(plain, out)
    faults += _imitation(plain, faults)
    faults += _schedule(plain, faults)
    faults += _policies(plain, faults)
    faults += _models(plain, {"old": ALIKE["old"], "reference": FIXED})
    faults += _processes(plain, choices)
    faults += _opponents(plain.get("opponents"))
    faults += _secrets(_raw(config))
    lines = [f"{_source(fault.key, config)}: {fault.text}{_where(fault.key, choices)}" for fault in faults]
    written = OmegaConf.to_yaml(config)
    return [hidden(line, written) for line in dict.fromkeys([*lines, *_resumes(config, out)])]


def _secrets(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Keys and logins that would be stored in the run's files (values from the environment are not)."""
    for key, value in leaves(raw):
        node, _, name = key.partition(".")
        if isinstance(value, str) and value and "${" not in value:
            if secret(name if node in OUTSIDE and not name.endswith("_env") else "", value):
                yield Fault(key, SECRET)
            elif login(value):
                yield Fault(key, LOGIN)


def _where(key: str, choices: Mapping[str, str]) -> str:
    group = key.split(".")[0]
    return f" [{group}/{choices[group]}.yaml]" if choices.get(group, OF_RUN) not in (None, OF_RUN) else ""


def _source(key: str, config: DictConfig) -> str:
    """The key that sets the value of `key`: another one for `${…}`."""
    node, last = _above(key, config)
    if node is None or not OmegaConf.is_interpolation(node, last):
        return key
    plain = re.fullmatch(r"\$\{([\w.]+)\}", str(_raw(node)[last]))
    return plain.group(1) if plain and _above(plain.group(1), config)[0] is not None else key


def _above(key: str, config: DictConfig) -> tuple[DictConfig | None, str]:
    """(the node that holds `key`, or None; the last part of the key)."""
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    return node if isinstance(node, DictConfig) and last in node else None, last


def _raw(node: DictConfig) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", OmegaConf.to_container(node))


def _plain(node: DictConfig | ListConfig, key: str, faults: list[Fault]) -> Any:
    """The node as plain Python; missing values are reported and become UNKNOWN."""
    items = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    values = {item: _value(node, item, f"{key}.{item}" if key else str(item), faults) for item in items}
    return values if isinstance(node, DictConfig) else list(values.values())


def _value(node: Any, item: Any, key: str, faults: list[Fault]) -> Any:
    if OmegaConf.is_missing(node, item):
        faults.append(Fault(key, f"needs a value: say {key}=…"))
        return UNKNOWN
    try:
        value = node[item]
    except InterpolationToMissingValueError:  # reported at the missing value
        return UNKNOWN
    except OmegaConfBaseException as error:
        faults.append(Fault(key, str(error).splitlines()[0]))
        return UNKNOWN
    return _plain(value, key, faults) if OmegaConf.is_config(value) else value


def _shape(values: Mapping[str, Any], schema: Any, key: str) -> Iterator[Fault]:
    """Faults against a dataclass: keys added by +key=… or removed by ~key, values out of range."""
    fields, hints = (
        {part.name: part for part in dataclasses.fields(schema)},
        typing.get_type_hints(schema, include_extras=True),
    )
    prefix = f"{key}." if key else ""
    for name in sorted(values.keys() - fields.keys()):
        yield Fault(f"{prefix}{name}", f"there is no such key{nearest(name, fields)}")
    for name, part in fields.items():
        value, hint = values.get(name), hints[name]
        if value is None:
            free = part.default is None or part.default_factory is not dataclasses.MISSING
            if not free and (name not in values or not fits(None, hint) or hint is Any):
                yield Fault(f"{prefix}{name}", "is required, and was taken away")
        elif isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
            yield from _shape(value, hint, f"{prefix}{name}")
        elif value is not UNKNOWN:
            yield from _range(value, hint, f"{prefix}{name}")


def _range(value: Any, hint: Any, key: str) -> Iterator[Fault]:
    """Faults of a value against the bounds in its annotation; for a union those of every member type that it fits."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (Union, UnionType) else (hint,)
    own = [member for member in members if fits(value, member)]  # a name is not held to the bounds of a share
    bounds = [bound for member in own for bound in getattr(member, "__metadata__", ()) if isinstance(bound, Bound)]
    if not finite(value):
        yield Fault(key, f"must be a finite number, got {value}")
    elif isinstance(value, (int, float, str)):
        yield from (Fault(key, text) for bound in bounds if (text := bound.fault(value)))


CHOSEN = ("task", "game", "model", "backend", "learner")


def _unchosen(plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Required nodes without a chosen option."""
    for name in CHOSEN:
        node = plain.get(name)
        if node is not UNKNOWN and not (isinstance(node, Mapping) and "_target_" in node):
            yield Fault(name, f"names no target: choose an option, {name}=… (parley --help lists them)")


def _places(plain: Mapping[str, Any], out: Path | None) -> Iterator[Fault]:
    """Faults of the keys that name a run's directory."""
    name = plain.get("name")
    if isinstance(name, str) and not re.fullmatch(FOLDER_NAME, name):
        yield Fault("name", f"is the name of a folder: letters, digits, _ . + - without a path, got {name!r}")
    if out is not None and out.exists() and not out.is_dir():
        yield Fault("hydra.run.dir", f"{out} is a file, and a run lives in a directory")


def _imitation(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Faults of the learner with its overrides for imitation."""
    over = plain.get("imitate", {}).get("learner") if isinstance(plain.get("imitate"), Mapping) else None
    if over and isinstance(plain.get("learner"), Mapping):
        texts = {fault.text for fault in known}
        yield from (
            fault for fault in _targets(overlaid(plain["learner"], over), "imitate.learner") if fault.text not in texts
        )


def _schedule(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Invalid entries of the schedule, and faults of the nodes with the schedule's overrides."""
    schedule, texts = plain.get("schedule"), {fault.text for fault in known}
    held = {node: plain.get(node) for node in SCHEDULED}
    for name, over in (
        sorted(schedule.items(), key=lambda entry: str(entry[0])) if isinstance(schedule, Mapping) else ()
    ):
        key = f"schedule.{name}"
        if not re.fullmatch(r"iter_\d{3}", str(name)) or name == "iter_000":
            yield Fault(key, "is no iteration: say iter_001, iter_002, …")
        elif over is UNKNOWN:
            continue
        elif not isinstance(over, Mapping) or not over.keys() <= set(SCHEDULED):
            given = ", ".join(map(str, over)) if isinstance(over, Mapping) else _shown(over)
            yield Fault(key, f"changes {given}, expected {' or '.join(SCHEDULED)}")
        else:
            held = overlaid(held, over)
            for node in over:
                yield from (fault for fault in _targets(held[node], f"{key}.{node}") if fault.text not in texts)


def _policies(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Invalid policy names and keys, and faults of the nodes with a policy's overrides."""
    named, texts = plain.get("policies"), {fault.text for fault in known}
    for name, own in named.items() if isinstance(named, Mapping) else ():
        key = f"policies.{name}"
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            yield Fault(key, "is the name of folders and figures: letters, digits, _ and - only")
        elif own is UNKNOWN:
            continue
        elif own is not None and (not isinstance(own, Mapping) or not own.keys() <= set(OWN)):
            given = ", ".join(map(str, own)) if isinstance(own, Mapping) else _shown(own)
            yield Fault(key, f"has {given}, expected some of {', '.join(OWN)}")
        else:
            for node, over in (own or {}).items():
                laid = overlaid(plain.get(node), over)
                yield from (fault for fault in _targets(laid, f"{key}.{node}") if fault.text not in texts)


FIXED = ("start", "base", "previous")  # keywords for a fixed reference


def _models(plain: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Values of keys that are neither one of their keywords nor a model."""
    for key, known in words.items():
        value = plain.get(key)
        if not isinstance(value, str) or value in known or (Path(value).expanduser() / "config.json").is_file():
            continue
        from ..models.hub import missing

        if (why := missing(value)) is not None:
            word = nearest(value, known)
            yield Fault(key, f"{value!r} is no model folder{word}" if word else f"{value!r} is no model: {why}")


def _processes(plain: Mapping[str, Any], choices: Mapping[str, str]) -> Iterator[Fault]:
    """A hardware profile that contradicts itself, the adapter, or a person at the table."""
    hardware = plain.get("hardware")
    if not isinstance(hardware, Mapping) or not all(isinstance(hardware.get(key), int) for key in ("devices", "nodes")):
        return
    count, strategy = hardware["devices"] * hardware["nodes"], hardware.get("strategy")
    if strategy == "single" and count > 1:
        yield Fault(
            "hardware.strategy", f"single is for one process, and there are {count} (devices × nodes): say ddp or fsdp"
        )
    if strategy in ("ddp", "fsdp", "fsdp_offload") and count == 1:
        yield Fault("hardware.strategy", f"{strategy} is for several processes, and there is one device: say single")
    backend = plain.get("backend")
    together = backend.get("tensor_parallel", 1) if isinstance(backend, Mapping) else 1
    if isinstance(together, int) and together > 0 and hardware["devices"] % together:
        yield Fault(
            "backend.tensor_parallel",
            f"{together} ranks of one machine share an engine, and this profile has {hardware['devices']} devices on "
            f"each: say a number that divides {hardware['devices']}, or choose another hardware",
        )
    wanted, chosen = hardware.get("adapter"), choices.get("adapter")
    if wanted and chosen and chosen not in (wanted, OF_RUN):
        yield Fault(
            "hardware.adapter",
            f"this profile is for adapter={wanted}, and {chosen} was chosen: change one or the other",
        )
    players = plain.get("players")
    people = [seat for seat, name in players.items() if name == "human"] if isinstance(players, Mapping) else []
    if count > 1 and people:
        yield Fault(
            f"players.{people[0]}",
            f"a person plays in one process only, and this profile has {count}: choose another hardware",
        )


def _opponents(nodes: Any) -> Iterator[Fault]:
    """Opponents with neither or both of path and model."""
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if node is UNKNOWN:
            continue
        if not isinstance(node, Mapping):
            yield Fault(
                f"opponents.{name}", f"must be a mapping, as {{path: …}} or {{model: …, backend: …}}, got {node!r}"
            )
            continue
        yield from _shape(node, Opponent, f"opponents.{name}")
        for key in ("path", "base", "model"):
            if not isinstance(node.get(key), (str, type(None), _Unknown)):
                yield Fault(f"opponents.{name}.{key}", f"must be text, got {node[key]!r}")
        found = [key for key in ("path", "model") if node.get(key) is not None]
        if len(found) != 1:
            got = " and ".join(found) or "neither"
            yield Fault(
                f"opponents.{name}",
                f"needs one of path (a run or a model folder) and model (what a server has), got {got}",
            )


def _resumes(config: DictConfig, out: Path | None) -> Iterator[str]:
    if out is None or config.resume == "none":
        return
    if not config.resume:
        yield "resume: is empty; say none, auto, or the directory of a run"
        return
    if (out / SAVED).exists():
        try:
            old = saved(out)
        except ConfigError as error:
            yield f"resume: {error}"
            return
        allowed = {"iterations"} if grown(old, config) else set()
        for key in [] if longer(old, config) else changed_keys(old, config):
            if key in allowed:
                continue
            before, after = (OmegaConf.select(side, key, default="absent") for side in (old, config))
            yield (
                f"resume: {key} was {before!r} when {out} was started, and is {after!r} now: put it back, or start a "
                f"new run"
            )
    elif config.resume != "auto" and not Path(config.resume).is_dir():
        yield f"resume: there is no directory {config.resume}; say none, auto, or the directory of a run"


# --- nodes with a _target_ -------------------------------------------------------------------------------------------

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_")
GIVEN = {  # arguments that targets get from the run
    "task": ("config", "out"),
    "learner": ("loss", "hardware", "old", "ledger"),
    "backend": ("device", "dtype", "ledger"),
}


def node_faults(node: Any, key: str) -> list[str]:
    """The faults of a plain node, one line each: checks every `_target_` in it against its signature."""
    return [f"{fault.key}: {fault.text}" for fault in _targets(node, key)]


def _targets(value: Any, key: str) -> Iterator[Fault]:
    """Faults of all nodes with a `_target_` in `value`, at any depth."""
    if isinstance(value, Mapping):
        if "_target_" in value and value["_target_"] is not UNKNOWN:
            yield from _target(value, key)
        if key == "schedule":  # its entries are checked together with the overridden nodes
            return
        for name, part in value.items():
            if (key, name) != ("imitate", "learner"):  # which is checked together with the learner
                yield from _targets(part, f"{key}.{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _targets(part, f"{key}.{number}")


def _target(node: Mapping[str, Any], key: str) -> Iterator[Fault]:
    path = node["_target_"]
    try:
        target = locate(path)
    except LookupError as error:
        yield Fault(f"{key}._target_", str(error.args[0]))
        return
    if not callable(target):
        yield Fault(f"{key}._target_", f"{path} is no class or function")
        return
    name = path.rpartition(".")[2]
    parameters, hints = dict(inspect.signature(target).parameters), _hints(target)
    given = GIVEN.get(
        key.rpartition(".")[2] if key.startswith(("imitate.", "schedule.", "policies.", "opponents.")) else key, ()
    )
    free = any(part.kind is part.VAR_KEYWORD for part in parameters.values())
    named = {
        item: part for item, part in parameters.items() if part.kind in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY)
    }
    arguments = {str(item): value for item, value in node.items() if item not in RESERVED}
    for item, value in arguments.items():
        if item in given or (item not in named and not free):
            yield Fault(f"{key}.{item}", f"{name} takes no such argument{nearest(item, named.keys() - set(given))}")
        elif value is not UNKNOWN and not fits(value, hints.get(item, Any)):
            yield Fault(f"{key}.{item}", f"must be {told(hints[item])}, got {_shown(value)}")
        else:
            yield from _range(value, hints.get(item), f"{key}.{item}")
    for item, part in named.items():
        if part.default is part.empty and item not in arguments and item not in given and not node.get("_partial_"):
            yield Fault(f"{key}.{item}", f"{name} needs this argument")


def _shown(value: Any) -> str:
    return "nothing (null)" if value is None else repr(value)


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names imported for type checkers only, or a callable without annotations
        return {}


def fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value fits the annotation `wanted`; anything fits annotations that cannot be checked."""
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if isinstance(value, _Unknown) or wanted is Any:
        return True
    if origin is Annotated:
        return fits(value, parts[0])
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if wanted in (bool, int, float, str, type(None), None):
        return _is_plain(value, wanted)
    if wanted is Path:
        return isinstance(value, str)
    kind = origin or wanted
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (len(parts) != 2 or all(fits(part, parts[1]) for part in value.values()))
    if (
        inspect.isclass(kind)
        and issubclass(kind, (Collection, Iterable))
        and kind.__module__ in ("builtins", "collections.abc")
    ):
        return isinstance(value, list) and all(fits(part, parts[0]) for part in value if parts)
    return isinstance(value, Mapping) or not inspect.isclass(kind)  # objects are separate nodes


def _is_plain(value: Any, wanted: Any) -> bool:
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is (type(None) if wanted is None else wanted)


WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    Path: "a path",
    Any: "anything",
}


def told(wanted: Any) -> str:
    """An annotation as text."""
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Annotated:
        return told(parts[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts)) if len(parts) > 1 else str(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(told(part) for part in parts)
    if parts and inspect.isclass(origin) and issubclass(origin, Collection):
        return (
            f"a {'mapping' if issubclass(origin, Mapping) else 'list'} of "
            f"{told(parts[-1] if issubclass(origin, Mapping) else parts[0])}"
        )
    return WORDS.get(wanted) or f"a {getattr(wanted, '__name__', wanted)}"
