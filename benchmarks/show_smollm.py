"""SmolLM2-135M-Instruct on Deal or No Deal, on a CPU: untrained, after imitation, after a round of self-play.

    make smollm
    python benchmarks/show_smollm.py FOLDER          # runs lie in FOLDER; stopped, the same command goes on from there
    python benchmarks/show_smollm.py FOLDER so-far   # runs nothing, and writes what the runs hold so far

The model imitates all its weights and then trains a LoRA adapter by self-play. Every snapshot plays the same held-out
scenarios with the same seeds. The last adapter, opened by peft alone, and the merged snapshot, opened by transformers
alone, are asked to continue the prompts of stored greedy replies. Exits with 1 where they say something else, and with
75 where a run was stopped before its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from parley.data.episode import Episode, streams
from parley.data.store import EpisodeStore
from parley.models.adapter import merge
from parley.models.snapshot import Snapshot
from parley.report.estimates import estimate, paired, summarise
from parley.report.run import summary
from parley.run.contents import all_snapshots
from results import record

PLAYED = [
    "experiment=deal_llm", "model=smollm2", "hardware=cpu", "game=deal_short", "game.retries=2", "seed=1",
    "play.in_flight=16", "play.scenarios=8", "play.sampling.max_tokens=40", "eval.sampling.max_tokens=40",
    "eval.scenarios=12", "eval.greedy=6", "eval.validation=1", "eval.opponents=[]",
]  # fmt: skip
RUNS = {
    "untrained": [*PLAYED, "adapter=none", "iterations=0", "imitate.matches=0"],
    "trained": [
        *PLAYED, "iterations=1", "imitate.matches=64", "imitate.players=[naive]", "imitate.learner.warmup=0.1",
        "imitate.learner.batch_utterances=24", "imitate.learner.optimizer.lr=3e-4", "learner.epochs=1",
        "learner.batch_utterances=16", "learner.optimizer.lr=5e-4", "learner.checkpoint_s=60",
    ],
}  # fmt: skip
STATES = {"untrained": ("untrained", 0), "imitated": ("trained", 0), "self-play": ("trained", 1)}  # run, iteration
PARTS = ("sampled", "greedy")
METRICS = ("joint_score", "score", "agreement_rate", "invalid_rate", "actions")
ASKED = 3  # greedy replies that peft and transformers are asked for


def go_on(run: Path, words: list[str]) -> None:
    """Runs parley until the run's summary is there."""
    if (run / "summary.json").exists():
        return
    where = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    code = subprocess.run([sys.executable, "-m", "parley", *words, "game.prompt=full", where], check=False).returncode
    if code:
        sys.exit(code)


def matches(folder: Path, state: str, part: str) -> EpisodeStore:
    run, iteration = STATES[state]
    return EpisodeStore(folder / run / f"iter_{iteration:03d}" / "eval" / part, shard=None)


def legal(episodes: EpisodeStore) -> dict[str, Any]:
    """The share of replies that were legal, clustered by scenario, and how many token streams forked."""
    replies, clusters, forks = list[float](), list[str](), 0
    for episode in episodes.read():
        for turn in episode.turns:
            replies.append(float(turn.request not in episode.refused(turn.seat)))
            clusters.append(episode.scenario.cluster)
            forks += turn.call is not None and turn.call.fork is not None
    return {"legal": estimate(replies, clusters).to_json(), "forks": forks}


def figures(folder: Path, state: str, part: str) -> dict[str, Any]:
    stored = matches(folder, state, part)
    told = summarise(stored.read())
    return {name: told[name].to_json() for name in METRICS} | legal(stored)


def gains(folder: Path, before: str, after: str) -> dict[str, Any]:
    """Paired by scenario: the same contexts and seeds."""
    return {
        part: {
            name: paired(matches(folder, before, part).read(), matches(folder, after, part).read(), name).to_json()
            for name in METRICS
        }
        for part in PARTS
    }


def greedy_replies(episodes: EpisodeStore) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, sampled ids) of the first reply in each match."""
    for episode in episodes.read():
        yield first_reply(episode)


def first_reply(episode: Episode) -> tuple[list[int], list[int]]:
    turn = episode.turns[0]
    stream = streams(episode, turn.seat)[0]
    start, end = stream.spans[turn.request]
    return list(stream.token_ids[:start]), list(stream.token_ids[start:end])


def opened(snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    """The adapter on its base by peft, and the merged model by transformers: neither knows parley."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    whole = folder / "merged"
    if not (whole / "config.json").exists():
        merge(snapshot, whole)
    base = AutoModelForCausalLM.from_pretrained(snapshot.base)
    return {
        "merged": AutoModelForCausalLM.from_pretrained(whole),
        "adapter": PeftModel.from_pretrained(base, snapshot.path),
    }


def same_words(folder: Path) -> dict[str, int]:
    """How many of the asked-for greedy replies each of `opened` gives token by token as play recorded them."""
    import torch

    asked = list(greedy_replies(matches(folder, "self-play", "greedy")))[:ASKED]
    models = opened(all_snapshots(folder / "trained")[1]["learner"], folder)
    agreed = dict.fromkeys(models, 0)
    for prompt, said in asked:
        ids = torch.tensor([prompt])
        for name, model in models.items():
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=len(said), pad_token_id=2
            )
            agreed[name] += made[0, len(prompt) :].tolist() == said
    return {"asked": len(asked), **agreed}


def speed(run: Path) -> dict[str, float]:
    """What training and play say of their own speed, in tokens a second of this machine."""
    rows = summary(run).iterations
    return {
        name: value
        for row in rows
        for name, value in row.policies["learner"].learn.items()
        if name.endswith("per_second")
    }


def whole(folder: Path, state: str) -> bool:
    """Whether both evaluations of a state are finished."""
    return all((matches(folder, state, part).folder / "stage.json").exists() for part in PARTS)


def measured(folder: Path) -> dict[str, Any]:
    """The figures of the states that there are, and of the steps between them."""
    there = [state for state in STATES if whole(folder, state)]
    return {
        "states": {state: {part: figures(folder, state, part) for part in PARTS} for state in there},
        "gain": {f"{after} over {before}": gains(folder, before, after) for before, after in pairwise(there)},
        "cpu_seconds": {
            name: summary(folder / name).cpu_seconds for name in RUNS if (folder / name / "summary.json").exists()
        },
        "run_at": {
            name: json.loads((folder / name / "manifest.json").read_text())["git"]["revision"]
            for name in RUNS
            if (folder / name / "manifest.json").exists()
        },
    }


def main() -> None:
    folder, asked = Path(sys.argv[1]).resolve(), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in RUNS.items() if not asked else ():
        go_on(folder / name, words)
    found: dict[str, Any] = {"overrides": RUNS, **measured(folder)}
    for state, parts in found["states"].items():
        for part, each in parts.items():
            print(state, part, {name: (each[name] or {}).get("mean") for name in ("legal", *METRICS)})
    if not asked:
        row = summary(folder / "trained").iterations[1].to_json()["policies"]["learner"]
        found |= {"against_imitated": row["versus"], "speed": speed(folder / "trained")}
        found["same_greedy_replies"] = same_words(folder)
    del sys.argv[1]  # results name no folder of this machine
    record("smollm_deal", found)
    same = found.get("same_greedy_replies", {"merged": 0, "adapter": 0, "asked": 0})
    sys.exit(0 if same["merged"] == same["adapter"] == same["asked"] else 1)


if __name__ == "__main__":
    main()
