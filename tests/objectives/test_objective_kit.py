"""Broken losses: the kit for objectives finds each fault, by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from parley.data.sample import Utterance
from parley.objectives import conformance
from parley.objectives.base import Columns
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """The mean negative log-prob of the global batch, times the reward, with a switch for each fault."""

    fault: str = ""
    columns: Sequence[str] = ("old", "entropy", "bonus", "shares")

    def totals(self, utterances: Sequence[Utterance]) -> Mapping[str, float]:
        return {"tokens": float(sum(each.end - each.start for each in utterances if each.weight)) or 1.0}

    def __call__(
        self, logprob_N: Tensor, columns: Columns, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert columns.old_N is not None and columns.entropy_N is not None
        weight_N, reward_N = columns.weight_U[columns.utterance_N], columns.reward_U[columns.utterance_N]
        old_N = columns.old_N if self.fault == "constants" else columns.old_N.detach()
        share_N = columns.more["shares"] + columns.more["bonus"][columns.utterance_N]
        each_N = weight_N * (reward_N + share_N) * (old_N - logprob_N) - 0.01 * weight_N * columns.entropy_N
        if self.fault == "columns":
            assert columns.sampler_N is None or columns.reference_N is not None
            each_N = each_N * columns.reference_N  # type: ignore[operator]
        if self.fault == "differences":
            each_N = each_N + weight_N * logprob_N.detach() * logprob_N
        if self.fault == "padding":
            each_N = each_N + 1.0
        below = float(len(logprob_N)) if self.fault == "micro_batches" else totals["tokens"]
        loss = each_N.sum() / below
        return loss, {"loss": loss if self.fault == "metrics" else loss.detach()}


def test_the_sound_loss_passes() -> None:
    conformance.check(Loss(), seeds=range(4), tokens={"shares"})


@pytest.mark.parametrize("fault", [*conformance.CHECKS, "metrics"])
def test_a_broken_loss_is_found_by_the_check_for_it(fault: str) -> None:
    expected = "constants" if fault == "metrics" else fault
    others = {"micro_batches"} if fault == "padding" else set()  # it counts in a cut batch too
    with pytest.raises(conformance.ConformanceError) as told:
        conformance.check(Loss(fault), seeds=range(4), tokens={"shares"}, skip=others)
    assert told.value.check == expected


def test_metrics_that_depend_on_the_cut_are_found() -> None:
    class Counting(Loss):
        def __call__(self, *given: object) -> tuple[Tensor, dict[str, Tensor]]:
            loss, _ = super().__call__(*given)  # type: ignore[arg-type]
            return loss, {"batches": torch.tensor(1.0)}

    with pytest.raises(conformance.ConformanceError, match=r"the metrics \['batches'\] depend on the cut"):
        conformance.CHECKS["micro_batches"](Counting(), tokens={"shares"})
