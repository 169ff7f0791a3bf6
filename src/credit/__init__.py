"""Credit (advantage estimation): turns finished matches into samples with rewards and weights. Imports no torch."""

from ..data.sample import decayed
from .advantage import Advantage
from .base import Credit, Credited, Log, NothingKept, logs
from .contrast import Contrast
from .demonstrated import Demonstrated
from .filtered_bc import FilteredBC
from .spag import SpagCredit
from .spin import SpinPairs
from .verdicts import Verdict, Verdicts

__all__ = [
    "Advantage", "Contrast", "Credit", "Credited", "Demonstrated", "FilteredBC", "Log", "NothingKept", "SpagCredit",
    "SpinPairs", "Verdict", "Verdicts", "decayed", "logs",
]  # fmt: skip
