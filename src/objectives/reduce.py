"""Parts shared by the objectives: the unit of the mean (token or utterance), its counts, and the two forms.

Legend: N supervised tokens of a micro-batch, U utterances of it, K units of it: its tokens or its utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..data.sample import Utterance
from .base import Columns, per_utterance

Form: TypeAlias = Literal["corrected", "faithful"]
Unit: TypeAlias = Literal["token", "utterance"]
Scope: TypeAlias = Literal["batch", "micro"]
"""The denominator of a sum: the count of the whole global batch, or (as published) of the micro-batch alone."""


def settle(objective: object, form: str, **forms: tuple[str, str]) -> None:
    """Sets every switch of a frozen `objective` that is None to its value under `form`: name=(corrected, faithful)."""
    if form not in ("corrected", "faithful"):
        raise ValueError(f"form is {form!r}, expected corrected or faithful")
    for name, (corrected, faithful) in forms.items():
        value = getattr(objective, name)
        if value is None:
            object.__setattr__(objective, name, corrected if form == "corrected" else faithful)
        elif value not in (corrected, faithful):
            raise ValueError(f"{name} is {value!r}, expected {corrected} or {faithful}")


@dataclass(frozen=True, slots=True)
class Units:
    """A micro-batch in units [K]: each token with its utterance's numbers, or each utterance with its mean
    log-probs."""

    logprob_K: Tensor
    ref_K: Tensor  # zeros where there is no reference
    reward_K: Tensor
    weight_K: Tensor
    sft_K: Tensor  # bool

    @property
    def live_K(self) -> Tensor:
        """1 for what counts, 0 for padding."""
        return (self.weight_K != 0).to(self.weight_K.dtype)


def units(logprob_N: Tensor, ref_N: Tensor | None, columns: Columns, unit: Unit | None) -> Units:
    """The micro-batch seen as tokens (K = N) or as utterances (K = U, log-probs averaged over an utterance's
    tokens)."""
    ref_N = torch.zeros_like(logprob_N) if ref_N is None else ref_N
    values = columns.reward_U.to(logprob_N.dtype), columns.weight_U.to(logprob_N.dtype), columns.sft_U
    if unit != "utterance":
        return Units(logprob_N, ref_N, *(value_U[columns.utterance_N] for value_U in values))
    count = len(columns.weight_U)
    return Units(
        per_utterance(logprob_N, columns.utterance_N, count, mean=True),
        per_utterance(ref_N, columns.utterance_N, count, mean=True),
        *values,
    )


def given(column_N: Tensor | None, name: str, objective: str) -> Tensor:
    """A column that the objective named, detached; ValueError if it is missing."""
    if column_N is None:
        raise ValueError(f"{objective} needs the column {name!r}, which was not given")
    return column_N.detach()


def count(utterances: Sequence[Utterance], unit: Unit | None) -> float:
    """Number of units in the utterances whose weight is not 0."""
    return float(sum(1 if unit == "utterance" else u.end - u.start for u in utterances if u.weight != 0))


def over(total: Tensor, denominator: Tensor | float) -> Tensor:
    """`total` / `denominator`, or 0 if the global batch holds nothing of the kind (then its total is 0, too)."""
    return total / (denominator if isinstance(denominator, Tensor) else denominator or 1.0)


def divisor(
    total: float, counted_K: Tensor, scope: Scope | None, columns: Columns, utterances: float
) -> Tensor | float:
    """The denominator of a micro-batch's sum over the units `counted_K` (1 or 0).

    scope=batch: `total`, their count in the global batch. scope=micro: their own count, divided by the micro-batch's
    share of the batch's `utterances`: with M micro-batches of equal size that is the mean over the micro-batches.
    """
    if scope != "micro":
        return total
    share = (columns.weight_U != 0).to(counted_K.dtype).sum() / (utterances or 1.0)
    return counted_K.sum().clamp(min=1.0) / share.clamp(min=1e-30)
