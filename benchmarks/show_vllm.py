"""The default experiment learns with backend=vllm as it does with backend=hf: one seed, held against the recorded seeds of hf.

    .venv-vllm/bin/python benchmarks/show_vllm.py                 # a run of its own (make test-vllm sets the environment up)
    .venv-vllm/bin/python benchmarks/show_vllm.py path/of/a/run   # reads a run that was made before

The start's greedy matches are also played again with the transformers backend, which must say the same, word for word.
Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from parley.data.episode import Episode
from parley.data.store import EpisodeStore
from parley.models import snapshot, vllm_engine
from parley.models.backend import Sampling
from parley.models.hf import HFBackend
from parley.models.renderer import Renderer
from parley.play.arena import Arena
from parley.play.pairing import Seating
from parley.play.players import LanguagePlayer
from results import ROOT, record
from show_learning import JOINT, rows

SEED = 1
APART = 0.5  # points of joint score that one seed may end below the lowest of hf's: the 95 % interval of 256 sampled matches


def alike(run: Path, config: DictConfig) -> float:
    """The share of the start's greedy matches that hf plays word for word alike. Rounding may settle a close choice otherwise."""
    made, game = snapshot.of(run / "iter_000/start/snapshot", "start"), instantiate(config.game)
    with EpisodeStore(run / "iter_000/eval/greedy", shard=None) as store:
        stored = {episode.id: episode for episode in store.read()}
    backend = HFBackend()
    backend.load(made)
    greedy = Sampling(0.0, max_tokens=config.eval.sampling.max_tokens)
    player = LanguagePlayer(backend, Renderer.load(made.path), made.version, greedy, "hf")
    seatings = [Seating(each.id, each.scenario, each.seed, dict.fromkeys(each.players, "hf")) for each in stored.values()]
    again: list[Episode] = []
    Arena(game, {"hf": player}).play(seatings, again.append)
    backend.close()
    said = [[turn.text for turn in each.turns] == [turn.text for turn in stored[each.id].turns] for each in again]
    return sum(said) / len(said)


def claims(mine: dict[str, Any], hf: list[dict[str, Any]], same: float) -> dict[str, bool]:
    """What is claimed of a run's row, beside the rows of hf."""
    last = {part: mine[part][JOINT] for part in ("last", "last greedy")}
    lowest = {part: min(row[part][JOINT] for row in hf) for part in last}
    return {
        "hf plays at least 98 % of the start's greedy matches word for word alike": same >= 0.98,
        "sampled joint score of the last iteration: at least 12, and double the start": last["last"] >= max(12, 2 * mine["start"][JOINT]),
        f"sampled and greedy, it ends at most {APART} below the lowest of hf's seeds": all(last[at] >= lowest[at] - APART for at in last),
        "agreement at least 0.95": mine["last"]["agreement_rate"] >= 0.95,
        "greedy gain over the start, paired: the interval above 0": mine["greedy_gain"]["low"] > 0,
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(sys.argv[1] if len(sys.argv) > 1 else f"{scratch}/run")
        if len(sys.argv) <= 1:
            words = ["backend=vllm", f"seed={SEED}", f"hydra.run.dir={run}"]
            subprocess.run([sys.executable, "-m", "parley", *words], check=True)
        summary, manifest = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "manifest"))
        config = OmegaConf.load(run / "config.yaml")
        assert isinstance(config, DictConfig)
        if (config.name, config.backend._target_, summary["seed"]) != ("deal_tiny", "parley.models.vllm.VLLMBackend", SEED):
            sys.exit(f"{run} is no run of deal_tiny with backend=vllm seed={SEED}")
        same = alike(run, config)
    (mine,) = rows([summary])
    hf = json.loads((ROOT / "docs" / "results" / "deal_tiny.json").read_text())
    held = claims(mine, hf["seeds"], same)
    print(json.dumps(mine))
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    parts = ("start", "start greedy", "last", "last greedy")
    compared = {"revision": hf["revision"], JOINT: {row["seed"]: {part: row[part][JOINT] for part in parts} for row in hf["seeds"]}}
    facts = {"vllm": vllm_engine.available(), "run_at": manifest["git"]["revision"]}
    record("deal_tiny_vllm", {**facts, "claims": held, "start_alike": same, "vllm_run": mine, "hf": compared})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
