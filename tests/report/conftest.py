"""A run directory as the loop leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from market import NASTY, episode, summary
from parley.data.store import EpisodeStore


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(name, seed, gain, overrides…) -> a finished run directory below the test's own folder."""

    def make(
        name: str = "run",
        seed: int = 1,
        gain: float = 1.5,
        iterations: int = 3,
        overrides: tuple[str, ...] = (),
        scores: Mapping[str, float] | None = None,
        demonstrators: bool = True,
    ) -> Path:
        run = tmp_path / name
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in overrides))
        (run / "summary.json").write_text(json.dumps(summary(seed, gain, iterations, demonstrators)))
        manifest = {"command": "parley experiment=market_tiny", "git": {"revision": "abc", "dirty": False}}
        (run / "manifest.json").write_text(json.dumps(manifest))
        for k in range(iterations):
            for mode in ("sampled", "greedy"):
                with EpisodeStore(run / f"iter_{k:03d}" / "eval" / mode) as store:
                    for scenario, score in (scores or {f"s{n}": float(n % 5) for n in range(9)}).items():
                        store.append(
                            episode(f"{mode}/{k}/{scenario}", scenario, score + gain * k, NASTY, f"iter_{k:03d}")
                        )
        return run

    return make
