"""The default experiment learns with backend=vllm as it does with backend=hf: three seeds, held against the recorded
seeds of hf.

    .venv-vllm/bin/python benchmarks/show_vllm.py                 # runs of its own (make test-vllm sets the environment
    up)
    .venv-vllm/bin/python benchmarks/show_vllm.py path/of/runs    # goes on with the runs in that folder, or reads the
    finished ones

Every start's greedy matches are also played again with the transformers backend, which must say the same, word for
word. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from parley.backends import vllm_engine
from parley.backends.hf import HFBackend
from parley.data.episode import Episode
from parley.data.store import EpisodeStore
from parley.models import snapshot
from parley.models.renderer import Renderer
from parley.play.arena import Arena
from parley.play.pairing import Seating
from parley.play.player import Sampling
from parley.play.players import LanguagePlayer
from results import ROOT, record
from show_learning import JOINT, over_seeds, rows

SEEDS = (1, 2, 3)
# points of joint score that one seed may end below the lowest of hf's: the 95 % interval of 256 sampled matches
APART = 0.5


def alike(run: Path, config: DictConfig) -> float:
    """The share of the start's greedy matches that hf plays word for word alike. Rounding may settle a close choice
    otherwise."""
    made, game = snapshot.of(run / "iter_000/start/snapshot", "start"), instantiate(config.game)
    with EpisodeStore(run / "iter_000/eval/greedy", shard=None) as store:
        stored = {episode.id: episode for episode in store.read()}
    backend = HFBackend()
    backend.load(made)
    greedy = Sampling(0.0, max_tokens=config.eval.sampling.max_tokens)
    player = LanguagePlayer(backend, Renderer.load(made.path), made.version, greedy, "hf")
    seatings = [
        Seating(each.id, each.scenario, each.seed, dict.fromkeys(each.players, "hf")) for each in stored.values()
    ]
    again: list[Episode] = []
    Arena(game, {"hf": player}).play(seatings, again.append)
    backend.close()
    said = [[turn.text for turn in each.turns] == [turn.text for turn in stored[each.id].turns] for each in again]
    return sum(said) / len(said)


def run(out: Path, seed: int) -> None:
    """One run, unless it is finished."""
    if (out / "summary.json").exists():
        return
    where = f"resume={out}" if out.exists() else f"hydra.run.dir={out}"
    subprocess.run([sys.executable, "-m", "parley", "backend=vllm", f"seed={seed}", where], check=True)


def read(out: Path, seed: int) -> tuple[dict[str, Any], str, float]:
    """The summary of a run, the revision it was made at, and how much of its start's greedy play hf repeats."""
    summary, manifest = (json.loads((out / f"{name}.json").read_text()) for name in ("summary", "manifest"))
    config = OmegaConf.load(out / "config.yaml")
    assert isinstance(config, DictConfig)
    if (config.name, config.backend._target_, summary["seed"]) != (
        "deal_tiny",
        "parley.backends.vllm.VLLMBackend",
        seed,
    ):
        sys.exit(f"{out} is no run of deal_tiny with backend=vllm seed={seed}")
    return summary, manifest["git"]["revision"], alike(out, config)


def claims(mine: Sequence[dict[str, Any]], hf: Sequence[dict[str, Any]], same: Sequence[float]) -> dict[str, bool]:
    """What is claimed of the seeds' rows, beside the rows of hf. Means are over the seeds, as they are for hf."""

    def mean(part: str, metric: str = JOINT) -> float:
        return fmean(row[part][metric] for row in mine)

    lowest = {part: min(row[part][JOINT] for row in hf) for part in ("last", "last greedy")}
    return {
        "hf plays at least 98 % of every start's greedy matches word for word alike": min(same) >= 0.98,
        "mean joint score of the last iteration, sampled: at least 12, and double the start": mean("last")
        >= max(12, 2 * mean("start")),
        f"sampled and greedy, every seed ends at most {APART} below the lowest of hf's": all(
            row[part][JOINT] >= lowest[part] - APART for row in mine for part in lowest
        ),
        "mean agreement at least 0.95": mean("last", "agreement_rate") >= 0.95,
        "greedy gain over the start, paired: every interval above 0": all(
            row["greedy_gain"]["low"] > 0 for row in mine
        ),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        for seed in SEEDS:
            run(folder / str(seed), seed)
        summaries, revisions, same = zip(*(read(folder / str(seed), seed) for seed in SEEDS), strict=True)
    mine = rows(summaries)
    hf = json.loads((ROOT / "docs" / "results" / "deal_tiny.json").read_text())
    held = claims(mine, hf["seeds"], same)
    for row in mine:
        print(json.dumps(row))
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    parts = ("start", "start greedy", "last", "last greedy")
    compared = {
        "revision": hf["revision"],
        JOINT: {row["seed"]: {part: row[part][JOINT] for part in parts} for row in hf["seeds"]},
    }
    facts = {
        "vllm": vllm_engine.available(),
        "run_at": dict(zip(SEEDS, revisions, strict=True)),
        "start_alike": dict(zip(SEEDS, same, strict=True)),
    }
    record("deal_tiny_vllm", {**facts, "claims": held, "over_seeds": over_seeds(mine), "seeds": mine, "hf": compared})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
