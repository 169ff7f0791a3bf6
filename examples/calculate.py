"""Calculate: a further tool for the agent of game=qa, beside its search. `calculate[2 * (3 + 4)]` is answered with 14.

What the agent writes is untrusted: it is parsed and worked out here, never run as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from math import isfinite

from parley.games.base import Request, Tool

Number = int | float
SIGNS: Mapping[type, Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 200  # characters of a sum: with + - * / alone its numbers stay small enough


class Calculate:
    """The tool: `says` is told to the agent, `service` answers it."""

    says = "works out a sum of numbers with + - * / and parentheses."

    def __init__(self, digits: int = 6) -> None:
        self.digits = digits
        self.service = Tool(lambda: self.answer)

    def answer(self, request: Request) -> str:
        """The value of the argument, or what is wrong with it."""
        text = str((request.observation or {})["argument"])
        try:
            if len(text) > LONGEST:
                raise ValueError
            value = _value(ast.parse(text.strip(), mode="eval").body)
            return f"{value:.{self.digits}g}" if isfinite(value) else "too large"
        except ZeroDivisionError:
            return "division by zero"
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return "not a sum of numbers"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in SIGNS:
            return SIGNS[type(sign)](_value(left), _value(right))
    raise ValueError
