"""Checks foreign values against the type annotations of dataclasses, at any depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Check = Callable[[Any], bool]


def wrong(value: Any) -> str | None:
    """The first field of a dataclass whose value has a wrong type, as `field is value`; None if all are right.

    An int is accepted as a float, but no bool as an int; floats must be finite.
    """
    kind: Any = type(value)
    for name, check in _fields(kind):
        if not check(found := getattr(value, name)):
            return f"{name} is {_short(found)}"
    return None


@cache
def _fields(kind: Any) -> tuple[tuple[str, Check], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, _check(hints[field.name])) for field in fields(kind))


@cache
def _check(hint: Any) -> Check:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in args
    if origin in (Union, UnionType):
        checks = [_check(each) for each in args]
        return lambda value: any(check(value) for check in checks)
    if origin is tuple and args[-1] is ...:
        return _each(args[0])
    if origin is tuple:
        inner = [_check(each) for each in args]
        return lambda value: isinstance(value, tuple) and [*map(_applied, inner, value)] == [True] * len(inner)
    if origin is Mapping:
        held = _check(args[1])
        return lambda value: isinstance(value, dict) and all(map(held, value.values()))
    if is_dataclass(hint):
        return lambda value: isinstance(value, hint) and wrong(value) is None  # type: ignore[arg-type]
    return PLAIN.get(hint, lambda value: True)


def _each(item: Any) -> Check:
    """A check of a tuple's items; numbers are checked all at once, because a round has millions of them."""
    inner = _check(item)
    kinds = NUMBERS.get(item)

    def check(value: Any) -> bool:
        if not isinstance(value, tuple):
            return False
        if kinds is None:
            return all(map(inner, value))
        return {*map(type, value)} <= kinds and _finite(sum(value))

    return check


def _finite(value: Any) -> bool:
    return bool(abs(value) <= float_info.max)


def _applied(check: Check, value: Any) -> bool:
    return check(value)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}…"


NUMBERS: dict[Any, set[type]] = {int: {int}, float: {int, float}}
PLAIN: dict[Any, Check] = {
    int: lambda value: type(value) is int and abs(value) < 1 << 64,
    float: lambda value: type(value) in (int, float) and _finite(value),
    str: lambda value: isinstance(value, str),
    NoneType: lambda value: value is None,
}
