"""The snapshot that a run keeps is the best one on validation, whatever the other splits say."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.report.rows import Measured, Row
from parley.run import loop


def figure(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 1, "high": mean + 1}


@pytest.fixture(scope="module")
def config() -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", ["iterations=3", "metric=sampled.score"])


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_kept_snapshot_is_the_best_on_validation(
    order: tuple[int, ...], config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loop:
        standings = None

        def __init__(self, run: Any) -> None: ...

        def start(self) -> dict[str, str]:
            return {"learner": "v0"}

        def iteration(self, number: int, history: Any) -> dict[str, str]:
            return {"learner": f"v{number}"}

        def row(self, number: int, measured: Any) -> Row:
            return Row(number, number, measured)

        def alarms(self, rows: Any) -> tuple[str, ...]:
            return ()

    class Evaluation:
        against_start = False

        def __init__(self, run: Any) -> None: ...

        def measure(self, number: int, history: Any) -> dict[str, Measured]:
            other = figure(float(number))  # the last one is the best everywhere else
            own = figure(order[number])
            return {
                "learner": Measured("v", validation={"score": own}, sampled={"score": other}, greedy={"score": other})
            }

        def against_scripts(self, number: int, history: Any, measured: Any) -> Any:
            assert len(history) == number + 1
            return measured

        def improvement(self, number: int, metric: str) -> dict[str, Any]:
            return {"learner": figure(number)}

    monkeypatch.setattr(loop, "Loop", Loop)
    monkeypatch.setattr(loop, "Evaluation", Evaluation)
    monkeypatch.setattr(loop, "write_cards", lambda *told: None)
    run: Any = SimpleNamespace(
        config=config,
        out=None,
        parts=SimpleNamespace(benchmark=None),
        cast=SimpleNamespace(frozen=list),
        progress=SimpleNamespace(note=lambda text: None),
        done={},
        cost=lambda: {"seconds": 1.0, "cpu_seconds": 1.0},
    )
    summary = loop.iterations(run, [])
    assert summary.best == summary.kept.iteration == order.index(3)
    assert summary.improvement_greedy["learner"]["mean"] == summary.best
