"""The optimiser and the schedule go on from one session to the next: two of them do what a single one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parley.learners.checkpoint import Saving, carried
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.learners.session import CARRIED, Span
from parley.models.load import load_policy
from parley.objectives.filtered_bc import FilteredBC
from streams import Cpu, episodes, start


def learner(**changes: Any) -> LightningLearner:
    """Steps of a whole round, whose batches no seed orders."""
    how = {"loss": FilteredBC(), "hardware": Cpu(), "optimizer": AdamW(lr=3e-3, eps=1e-4), "batch_utterances": 10**6}
    return LightningLearner(**{**how, "checkpoint_s": 1e9, "schedule": "cosine", "carry": True, **changes})


def taught(
    made: LightningLearner, begin: Any, folder: Path, rounds: range, span: Span | None, stop: int | None = None
) -> Any:
    """A session of `rounds`, killed after a checkpoint in round `stop` where there is one: (snapshot, curve)."""
    with Saving(folder / "checkpoint", "inputs", 1e9) as saving:
        session = made.session(
            begin, folder, seed=0, name=f"to {rounds.stop}", rounds=len(rounds), saving=saving, span=span
        )
        for at, number in enumerate(rounds):
            if number == stop:
                saving.save()
                return None
            session.step(episodes(3, seed=number), at)
        return session.close(), [row["lr"] for row in session.figures()["curve"]]


def weights(snapshot: Any) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in load_policy(snapshot).state_dict().values()])


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("killed", [False, True])
def test_two_sessions_do_what_one_does(average: float, killed: bool, tmp_path: Path) -> None:
    made, begin = learner(average=average), start(tmp_path)
    whole, curve = taught(made, begin, tmp_path / "whole", range(5), Span(0, 5))
    first, head = taught(made, begin, tmp_path / "one", range(2), Span(0, 5))
    span = Span(2, 5, tmp_path / "one" / CARRIED)
    if killed:
        assert taught(made, first, tmp_path / "two", range(2, 5), span, stop=3) is None
    second, tail = taught(made, first, tmp_path / "two", range(2, 5), span)
    assert head + tail == curve and curve[-1] < curve[0]
    if not average:  # with averages the second session begins at them, not at the last weights
        assert torch.equal(weights(second), weights(whole))
    fresh, other = taught(made, first, tmp_path / "fresh", range(2, 5), None)
    assert other[0] == curve[0] and not torch.equal(weights(fresh), weights(whole))


def test_what_was_not_left_to_the_end_is_not_taken_up(tmp_path: Path) -> None:
    taught(learner(), start(tmp_path), tmp_path / "one", range(1), Span(0, 2))
    assert carried(tmp_path / "one" / CARRIED) is not None
    (tmp_path / "one" / CARRIED / "state.json").unlink()
    assert carried(tmp_path / "one" / CARRIED) is None
    taught(learner(), start(tmp_path), tmp_path / "plain", range(1), None)
    assert not (tmp_path / "plain" / CARRIED).exists()
