"""Searching for an answer: what a tiny model learns from a sloppy script's rollouts, and what SPIN, its controls and
filtered cloning make of that start.

    python benchmarks/show_qa.py FOLDER             # three seeds; what is finished is not repeated
    python benchmarks/show_qa.py FOLDER --arms dpo failures --seeds 0

Of every arm: EM on the held-out questions, sampled and greedy, before and after one iteration, with paired differences
to the start, and of SPIN to as many steps of fine-tuning on the same expert's texts. Claimed, and held (else it exits
with 1): after imitation greedy EM is above twice what the best constant or positional answer gets, and no better than
that with unrelated observations; filtered cloning ends above the start, intervals apart. SPIN's difference is told,
whatever it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parley.data.store import Matches
from parley.games.qa import TwoHop
from parley.report.estimates import Estimate, estimate, paired, summarise
from results import record, summary_of

SEEDS = (0, 1, 2)
EXPERT = ["data.script=expert", "play.scenarios=1600", "play.group=1"]
ARMS: Mapping[str, list[str]] = {
    "clone": ["objective.credit.keep=nonzero", "learner.batch_utterances=192"],
    "spin": ["objective=spin_tiny", *EXPERT, "learner.batch_utterances=192"],  # 32 pairs a step
    "sft": ["objective=sft", *EXPERT, "learner.batch_utterances=96"],  # 32 real sides: as many steps
    "dpo": ["objective=dpo", "learner.batch_utterances=192"],
    "failures": ["objective=spin_tiny", "objective.credit.only=failures", *EXPERT, "learner.batch_utterances=192"],
    "unrelated": ["iterations=0", "game.unrelated=true"],
}


def parley(run: Path, *words: str) -> None:
    """Runs the command unless `run` is finished; goes on with it where it was cut off."""
    again = ["resume=" + str(run)] if (run / "config.yaml").exists() else [f"hydra.run.dir={run}"]
    command = [sys.executable, "-m", "parley", "experiment=qa_tiny", *words, *again]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def played(folder: Path, seed: int, arms: Sequence[str]) -> None:
    """The start of a seed, and the arms from it."""
    start = folder / f"start{seed}"
    snapshot = start / "iter_000/start/snapshot"
    if not snapshot.exists():
        parley(start, "task=imitate", f"seed={seed}")
    for arm in arms:
        run = folder / f"{arm}{seed}"
        if not (run / "summary.json").exists():
            own = ["iterations=1", *ARMS[arm]]
            parley(run, f"seed={seed}", "model=hf", f"model.path={snapshot}", "imitate.first=false", *own)
            print(f"{run.name} is done", flush=True)


def em(folder: Path, arm: str, seed: int, at: int, how: str) -> Matches:
    """The matches of an evaluation."""
    return Matches(folder / f"{arm}{seed}" / f"iter_{at:03d}/eval/{how}")


def over_seeds(found: Sequence[Estimate]) -> dict[str, Any]:
    """Every seed's estimate, and the mean over the seeds with Student's interval, a seed being a cluster."""
    each = [one.to_json() for one in found]
    return {"seeds": each, "mean": estimate([one.mean for one in found], range(len(found))).to_json()}


def figures(folder: Path, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """EM before and after, and the paired difference, sampled and greedy."""
    told: dict[str, Any] = {}
    for how in ("sampled", "greedy"):
        both = [[em(folder, arm, seed, at, how) for at in (0, 1)] for seed in seeds]
        told[how] = {
            "before": over_seeds([summarise(before)["em"] for before, _ in both]),
            "after": over_seeds([summarise(after)["em"] for _, after in both]),
            "difference": over_seeds([paired(before, after, "em") for before, after in both]),
        }
    runs = [summary_of(folder / f"{arm}{seed}") for seed in seeds]
    learned = [run["iterations"][1]["learn"] for run in runs]
    kept = ("steps", "loss", "rewards/accuracies", "rewards/margins")
    told["learn"] = [{name: row[name] for name in kept if name in row} for row in learned]
    return told | {"cpu_seconds": [run["cpu_seconds"] for run in runs]}


def chance() -> dict[str, float]:
    """EM on the held-out questions of the best constant answer, and of the land in the best place among the
    documents."""
    scenarios = TwoHop().scenarios("test")
    constant, place = Counter[str](), Counter[int]()
    for scenario in scenarios:
        (answer,) = scenario.data["answers"]
        constant[answer] += 1
        lands = [each["text"].split()[3] for each in scenario.data["documents"] if " comes from " in each["text"]]
        place[lands.index(answer)] += 1
    return {name: max(found.values()) / len(scenarios) for name, found in (("constant", constant), ("place", place))}


def rollouts(folder: Path, seed: int) -> dict[str, str]:
    """Of the first question that only the cloned snapshot answered: its rollout before and after."""
    pair = ({each.scenario.id: each for each in em(folder, "clone", seed, at, "sampled")} for at in (0, 1))
    before, after = pair
    name = next(
        key for key in sorted(before) if not before[key].result.returns["agent"] and after[key].result.returns["agent"]
    )
    lines = {}
    for when, matches in (("before", before), ("after", after)):
        turns = [f"{turn.seat}: {turn.text}" for turn in matches[name].turns]
        lines[when] = "\n".join([matches[name].scenario.data["question"], *turns, matches[name].result.outcome])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    folder = given.folder.resolve()
    for seed in given.seeds:
        played(folder, seed, given.arms)
    done = {arm: [seed for seed in SEEDS if (folder / f"{arm}{seed}/summary.json").exists()] for arm in ARMS}
    by_chance = chance()
    found: dict[str, Any] = {"chance": by_chance, "seeds": {arm: seeds for arm, seeds in done.items() if seeds}}
    for arm, seeds in done.items():
        if seeds and arm != "unrelated":
            found[arm] = figures(folder, arm, seeds)
    if seeds := done["unrelated"]:
        shown = {
            how: [summarise(em(folder, "unrelated", seed, 0, how))["em"] for seed in seeds]
            for how in ("sampled", "greedy")
        }
        found["unrelated"] = {how: over_seeds(each) for how, each in shown.items()}
    if both := [seed for seed in done["spin"] if seed in done["sft"]]:
        found["spin_less_sft"] = {
            how: over_seeds(
                [paired(em(folder, "sft", seed, 1, how), em(folder, "spin", seed, 1, how), "em") for seed in both]
            )
            for how in ("sampled", "greedy")
        }
    if done["clone"]:
        found["rollouts"] = rollouts(folder, done["clone"][0])
    record("qa_tiny", found)
    sys.exit(0 if holds(found, max(by_chance.values())) else 1)


def holds(found: Mapping[str, Any], by_chance: float) -> bool:
    """Whether every claim holds, of what was measured; each is printed."""
    claims: dict[str, bool] = {}
    if "clone" in found:
        greedy, sampled = found["clone"]["greedy"]["before"]["seeds"], found["clone"]["sampled"]
        claims["greedy after imitation above twice chance"] = all(one["low"] > 2 * by_chance for one in greedy)
        both = zip(sampled["before"]["seeds"], sampled["after"]["seeds"], strict=True)
        claims["cloning apart from the start"] = all(after["low"] > before["high"] for before, after in both)
    if "unrelated" in found:
        each = found["unrelated"]["greedy"]["seeds"]
        claims["at chance with unrelated observations"] = all(one["low"] <= by_chance for one in each)
    for claim, true in claims.items():
        print(f"{'holds' if true else 'FAILS'}: {claim}")
    return all(claims.values())


if __name__ == "__main__":
    main()
