"""Games small enough for exact evaluation: Kuhn poker, Leduc poker, matrix games."""

from .kuhn import Kuhn
from .leduc import Leduc
from .matrix import Matrix

__all__ = ["Kuhn", "Leduc", "Matrix"]
