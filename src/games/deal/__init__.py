"""Deal or No Deal: two players divide books, hats and balls by talking, each with private values."""

from .contexts import Context, oracle
from .game import Deal
from .scoring import METRICS

__all__ = ["METRICS", "Context", "Deal", "oracle"]
