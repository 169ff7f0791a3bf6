"""Checks plain values against types: a dataclass's fields, or the signature and annotations of a `_target_`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

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
RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_")
GIVEN = {  # arguments that targets get from the run
    "task": ("config", "out"),
    "learner": ("loss", "hardware", "old", "ledger"),
    "backend": ("device", "dtype", "ledger"),
}


def shape(values: Mapping[str, Any], schema: Any, key: str) -> Iterator[Fault]:
    """Faults against a dataclass: keys added by +key=… or removed by ~key, values out of range."""
    fields = {part.name: part for part in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema, include_extras=True)
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
            yield from shape(value, hint, f"{prefix}{name}")
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


def node_faults(node: Any, key: str) -> list[str]:
    """The faults of a plain node, one line each: checks every `_target_` in it against its signature."""
    return [f"{fault.key}: {fault.text}" for fault in targets(node, key)]


def targets(value: Any, key: str) -> Iterator[Fault]:
    """Faults of all nodes with a `_target_` in `value`, at any depth."""
    if isinstance(value, Mapping):
        if "_target_" in value and value["_target_"] is not UNKNOWN:
            yield from _target(value, key)
        if key == "schedule":  # its entries are checked together with the overridden nodes
            return
        for name, part in value.items():
            if (key, name) != ("imitate", "learner"):  # which is checked together with the learner
                yield from targets(part, f"{key}.{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from targets(part, f"{key}.{number}")


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
    inside = key.startswith(("imitate.", "schedule.", "policies.", "opponents."))
    given = GIVEN.get(key.rpartition(".")[2] if inside else key, ())
    free = any(part.kind is part.VAR_KEYWORD for part in parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {item: part for item, part in parameters.items() if part.kind in kinds}
    arguments = {str(item): value for item, value in node.items() if item not in RESERVED}
    for item, value in arguments.items():
        if item in given or (item not in named and not free):
            yield Fault(f"{key}.{item}", f"{name} takes no such argument{nearest(item, named.keys() - set(given))}")
        elif value is not UNKNOWN and not fits(value, hints.get(item, Any)):
            yield Fault(f"{key}.{item}", f"must be {told(hints[item])}, got {shown(value)}")
        else:
            yield from _range(value, hints.get(item), f"{key}.{item}")
    for item, part in named.items():
        if part.default is part.empty and item not in arguments and item not in given and not node.get("_partial_"):
            yield Fault(f"{key}.{item}", f"{name} needs this argument")


def shown(value: Any) -> str:
    """A value as text."""
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
    if wanted is float:
        return type(value) in (int, float)
    if wanted in (bool, int, str, type(None), None):
        return type(value) is (type(None) if wanted is None else wanted)
    if wanted is Path:
        return isinstance(value, str)
    kind = origin or wanted
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (len(parts) != 2 or all(fits(part, parts[1]) for part in value.values()))
    if inspect.isclass(kind) and issubclass(kind, Iterable) and kind.__module__ in ("builtins", "collections.abc"):
        return isinstance(value, list) and all(fits(part, parts[0]) for part in value if parts)
    return isinstance(value, Mapping) or not inspect.isclass(kind)  # objects are separate nodes


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
        kind, part = ("mapping", parts[-1]) if issubclass(origin, Mapping) else ("list", parts[0])
        return f"a {kind} of {told(part)}"
    return WORDS.get(wanted) or f"a {getattr(wanted, '__name__', wanted)}"
