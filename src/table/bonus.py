"""Pay as an arithmetic expression over figures: numbers, names, + - * /, min, max. Parsed, never run as code.

0.10 + 0.20 * payoff
min(2, max(0.30 * payoff, 0))
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from math import isfinite

from ..system.files import InputError

LONGEST = 300  # most characters of an expression
_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda one, other: one / other if other else 0.0,  # a share of no matches is 0
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[float], float]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max}


class Expression:
    """An arithmetic expression over named figures. InputError names an invalid part; its text begins with `where`."""

    def __init__(self, text: str, where: str = "the expression") -> None:
        self.text, self._where = text, where
        if len(text) > LONGEST:
            raise InputError(f"{where} has {len(text)} characters, at most {LONGEST} are read")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(f"{where} is {text!r}, expected arithmetic such as 0.10 + 0.20 * payoff") from None
        self.names = frozenset(self._names(self._tree))

    def check(self, known: Collection[str]) -> None:
        """InputError if the expression names a figure that is not in `known`."""
        if strangers := sorted(self.names - set(known)):
            raise InputError(f"{self._where} names {strangers[0]}, which is none of {', '.join(sorted(known))}")

    def __call__(self, figures: Mapping[str, float]) -> float:
        """Evaluates the expression; a missing figure is 0, as is a division by 0. InputError if the value is not
        finite."""
        try:
            value = self._value(self._tree, figures)
        except OverflowError:
            value = float("inf")
        if not isfinite(value):
            raise InputError(f"{self._where} {self.text!r} has no finite value")
        return value

    def _names(self, node: ast.expr) -> list[str]:
        """The figures named below `node`. InputError for a kind of node that is not allowed."""
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return []
            case ast.Name(id=name):
                return [name]
            case ast.UnaryOp(op=op, operand=inner) if type(op) in _SIGNS:
                return self._names(inner)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
                return self._names(left) + self._names(right)
            case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in _CALLS:
                return [found for each in args for found in self._names(each)]
        raise InputError(f"{self._where} {self.text!r} holds {ast.unparse(node)!r}: only + - * /, min and max are read")

    def _value(self, node: ast.expr, figures: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return float(figures.get(name, 0.0))
            case ast.UnaryOp(op=op, operand=inner):
                return _SIGNS[type(op)](self._value(inner, figures))
            case ast.BinOp(left=left, op=operation, right=right):
                return _BINARY[type(operation)](self._value(left, figures), self._value(right, figures))
            case ast.Call(func=ast.Name(id=name), args=args):
                numbers = [self._value(each, figures) for each in args]
                return _CALLS[name](*numbers) if len(numbers) > 1 else numbers[0]
        raise AssertionError("checked when it was read")
