"""Bounds of numbers and words as annotations, such as `lr: Positive`, in the config's schema and in the signatures of
targets. A composed config is checked against them before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Least:
    """The smallest value."""

    number: float

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value >= self.number else f"must be at least {self.number}, got {value}"


@dataclass(frozen=True)
class Most:
    """The largest value."""

    number: float

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value <= self.number else f"must be at most {self.number}, got {value}"


@dataclass(frozen=True)
class Above:
    """A value that is just too small."""

    number: float

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value > self.number else f"must be above {self.number}, got {value}"


@dataclass(frozen=True)
class Below:
    """A value that is just too large."""

    number: float

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value < self.number else f"must be below {self.number}, got {value}"


@dataclass(frozen=True)
class OneOf:
    """The words that a text may be."""

    options: tuple[str, ...]

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value in self.options else f"must be one of {', '.join(self.options)}, got {value!r}"


Bound = (Least, Most, Above, Below, OneOf)

Whole = Annotated[int, Least(0)]
Count = Annotated[int, Least(1)]
Amount = Annotated[float, Least(0)]
Positive = Annotated[float, Above(0)]
Share = Annotated[float, Least(0), Most(1)]
PartShare = Annotated[float, Least(0), Below(1)]
"""A share below 1, such as dropout or the decay of an average."""


def finite(value: Any) -> bool:
    """False for a float that is not a number or infinite."""
    return not isinstance(value, float) or math.isfinite(value)
