"""Adversarial Taboo learnt by self-play, over seeds, against the frozen imitation model, on held-out words.

    python benchmarks/show_spag.py                  # three seeds, three columns each (an hour of one idle core)
    python benchmarks/show_spag.py path/of/runs     # goes on with the runs in that folder, or reads them where they are
    finished

Columns, all from the same start of a seed: `corrected` (the experiment as it is), `faithful` (SPAG's published credit
and loss), `cloning` (behaviour cloning of winners, the same facts mixed in). A figure is the kept snapshot's against
the start less that of the start against itself, in matches of the same words, seats and seeds, pooled over the seeds
and clustered by word. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parley.data.store import EpisodeStore
from parley.report.estimates import Estimate, estimate, values
from results import record, summary_of

SEEDS = (1, 2, 3)
COLUMNS: Mapping[str, Sequence[str]] = {
    "corrected": (),
    "faithful": ("objective.form=faithful", "objective.loss.kl_coef=0.2", "objective.loss.sft_coef=0.5"),
    "cloning": ("objective=filtered_bc", "objective.credit.keep=nonzero", "objective.credit.keep_draws=null"),
}
SHOWN = (
    "attacker_win_rate", "defender_win_rate", "attacker_break_rate", "attacker_win_clean", "defender_win_clean",
    "word_leak_rate", "turns",
    "words", "invalid_rate",
)  # fmt: skip
Figures = Mapping[str, Mapping[str, Estimate]]  # before, after, gain -> metric -> estimate


def run(folder: Path, seed: int, column: str) -> None:
    """One run, unless it is finished. What is not `corrected` plays on from the start that `corrected` made of this
    seed."""
    out = folder / column / str(seed)
    if (out / "summary.json").exists():
        return
    start = folder / "corrected" / str(seed) / "iter_000/start/snapshot"
    once = ["eval.group=1", "eval.opponents=[]"]  # nothing else is looked at than the figures against the start
    again = [] if column == "corrected" else ["model=hf", f"model.path={start}", "imitate.first=false", *once]
    where = f"resume={out}" if out.exists() else f"hydra.run.dir={out}"
    words = ["experiment=spag_tiny", f"seed={seed}", where, *again, *COLUMNS[column]]
    subprocess.run([sys.executable, "-m", "parley", *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def by_word(folder: Path) -> dict[str, dict[str, list[float]]]:
    """metric -> word -> the values of the learner's matches."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in EpisodeStore(folder, shard=None).read():
        for metric, value in values(episode, ["learner"]).items():
            found[metric][episode.scenario.cluster].append(value)
    return found


def pooled(runs: Sequence[Path]) -> Figures:
    """The figures of the start and of the kept snapshots, and the differences by seed and word, clustered by word."""
    rows: dict[str, dict[str, list[tuple[str, float]]]] = {
        part: defaultdict(list) for part in ("before", "after", "gain")
    }
    for each in runs:
        best = json.loads((each / "summary.json").read_text())["best"]
        before, after = (by_word(each / f"iter_{number:03d}/eval/final/imitation") for number in (0, best))
        for metric in SHOWN:
            for word in before[metric].keys() & after[metric].keys():
                means = [sum(part[metric][word]) / len(part[metric][word]) for part in (before, after)]
                for part, value in zip(rows, (*means, means[1] - means[0]), strict=True):
                    rows[part][metric].append((word, value))
    return {part: {metric: _estimate(found) for metric, found in columns.items()} for part, columns in rows.items()}


def _estimate(found: Sequence[tuple[str, float]]) -> Estimate:
    return estimate([value for _, value in found], [word for word, _ in found])


def halved(figures: Figures) -> bool:
    return figures["after"]["attacker_break_rate"].mean <= figures["before"]["attacker_break_rate"].mean / 2


def gained(metric: str, points: float) -> Callable[[Figures], bool]:
    return lambda figures: figures["gain"][metric].mean >= points / 100 and figures["gain"][metric].low > 0


CLAIMS: Sequence[tuple[str, Callable[[Figures], bool]]] = (
    ("attacker's win rate: at least 10 points more, lower bound above 0", gained("attacker_win_rate", 10)),
    ("defender's win rate: at least 5 points more, lower bound above 0", gained("defender_win_rate", 5)),
    ("attacker's rule breaks at most half", halved),
    (
        "attacker's win rate without rule breaks: at least 10 points more, lower bound above 0",
        gained("attacker_win_clean", 10),
    ),
    (
        "defender's win rate without rule breaks: at least 5 points more, lower bound above 0",
        gained("defender_win_clean", 5),
    ),
)


def seeds(folder: Path) -> list[dict[str, Any]]:
    """What each run of `corrected` cost and gained."""
    found = []
    for seed in SEEDS:
        summary = summary_of(folder / "corrected" / str(seed))
        row = {key: summary[key] for key in ("seed", "best", "seconds", "cpu_seconds")}
        kept = summary["iterations"][summary["best"]]["versus"]["imitation"]
        gains = {metric: summary["gains"].get(metric) for metric in SHOWN}
        found.append({**row, "matches": kept["attacker_win_rate"]["n"], "gains": gains})
    return found


def _plain(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: each.to_json() for metric, each in found.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        for column in COLUMNS:
            for seed in SEEDS:
                run(folder, seed, column)
        figures = {column: pooled([folder / column / str(seed) for seed in SEEDS]) for column in COLUMNS}
        rows = seeds(folder)
    held = {text: claim(figures["corrected"]) for text, claim in CLAIMS}
    held["every seed at most 8 minutes of CPU"] = all(row["cpu_seconds"] <= 480 for row in rows)
    held["at least 2,000 matches for each role and seed"] = all(row["matches"] >= 2000 for row in rows)
    for column, parts in figures.items():
        for metric in SHOWN:
            before, after, gain = (parts[part][metric] for part in ("before", "after", "gain"))
            told = f"{before.mean:6.3f} -> {after.mean:6.3f}   {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            print(f"{column:10s} {metric:20s} {told}")
    for text, holds in held.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    columns = {column: {part: _plain(found) for part, found in parts.items()} for column, parts in figures.items()}
    del sys.argv[1:]  # results name no folder of this machine
    record("spag_tiny", {"experiment": "spag_tiny", "claims": held, "columns": columns, "seeds": rows})
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
