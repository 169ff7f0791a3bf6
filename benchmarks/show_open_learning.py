"""Learning by self-play in games of others: TextArena's TicTacToe, and clembench's referencegame, a tiny model each.

    python benchmarks/show_open_learning.py FOLDER tictactoe [seeds=1,2,…]
    python benchmarks/show_open_learning.py FOLDER referencegame CHECKOUT [seeds=1,2,…]    # a clone of clembench

Runs lie in FOLDER; stopped, the same command goes on from there. The model imitates a script that is legal and
careless, then plays itself. The kept snapshot, chosen on validation, and the start meet the start and the script on the
same held-out scenarios: told are all matches, and those in which nobody made an illegal move. TicTacToe has no chance,
so its scenarios are one and the same match, and intervals are of the players' own chance. The referencegame trains on
instances made here; all that clembench ships are held out. Exits with 1 where a seed's gain over the start is not
above 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clem_scripts import EXPERIMENT, instances
from parley.data.episode import Episode
from parley.report.estimates import estimate, paired, values
from parley.report.run import episodes
from parley.system.files import write_text
from results import record, summary_of

SEEDS = (1, 2, 3)
MODEL = ["model=tiny", "model.width=64", "model.mlp=128", "play.sampling.temperature=1.0", "eval.greedy=4"]
ONLINE = ["objective=policy_gradient", "learner.epochs=1", "learner.batch_utterances=100000", "learner.carry=true",
          "learner.schedule=constant", "imitate.learner.epochs=1", "+imitate.learner.carry=false",
          "+imitate.learner.schedule=linear"]  # fmt: skip
TICTACTOE = [
    *MODEL, *ONLINE, "game=textarena", "game.env=TicTacToe-v0", "game.boards=last", "model.heads=2", "model.layers=2",
    "metric=versus.start.reward", "imitate.players=[random]", "imitate.matches=6000", "imitate.validation=60",
    "imitate.learner.batch_utterances=100", "learner.optimizer.lr=1e-3", "iterations=4", "rounds=10",
    "play.scenarios=16", "play.group=16", "play.sampling.max_tokens=6", "eval.sampling.max_tokens=6",
    "eval.scenarios=100", "eval.validation=40", "eval.opponents=[random]",
]  # fmt: skip
REFERENCEGAME = [
    *MODEL, *ONLINE, "game=clembench", "game.name=referencegame", "game.instances=show_learning", "model.heads=4",
    "model.layers=3", "+game.scripted.careless={_target_: clem_scripts.careless, _partial_: true}",
    "metric=versus.start.main_score", "imitate.players=[careless]", "imitate.matches=3000", "imitate.validation=60",
    "imitate.learner.epochs=2", "imitate.learner.batch_utterances=32", "learner.optimizer.lr=1e-3", "iterations=3",
    "rounds=5", "play.scenarios=32", "play.group=8", "play.sampling.max_tokens=30", "eval.sampling.max_tokens=30",
    "eval.scenarios=90", "eval.validation=60", "eval.opponents=[careless]",
]  # fmt: skip
GAMES = {"tictactoe": (TICTACTOE, "random", "reward"), "referencegame": (REFERENCEGAME, "careless", "main_score")}
MADE = 3100  # instances of referencegame to train on; the first of them are for validation


def prepared(folder: Path, checkout: Path) -> list[str]:
    """Writes the made instances into the checkout, and who is held out; what a run must be told of them."""
    place = checkout / "referencegame"
    data = instances(place, MADE, 0)
    write_text(place / "in" / "show_learning.json", json.dumps(data))
    held = {"train": range(60, MADE), "validation": range(60)}
    lines = [
        {"game": "referencegame", "experiment": each["name"], "task_id": row["game_id"],
         "split": next((name for name, those in held.items() if each["name"] == EXPERIMENT and at in those), "test")}
        for each in data["experiments"] for at, row in enumerate(each["game_instances"])
    ]  # fmt: skip
    write_text(folder / "split.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    return [f"game.path={checkout}", f"game.split={folder / 'split.jsonl'}"]


def go_on(run: Path, words: Sequence[str]) -> None:
    """Runs parley until the run's summary is there."""
    if (run / "summary.json").exists():
        return
    where = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-m", "parley", *words, where], check=True, env=os.environ | path)


def without_illegal(played: Iterator[Episode]) -> Iterator[Episode]:
    """The matches in which no reply was illegal."""
    return (each for each in played if not any(map(each.refused, each.players)))


def figures(run: Path, kept: int, against: str, metric: str) -> dict[str, Any]:
    """The learner against one opponent, at the start and kept: among all matches, and among those without an illegal
    move; the gain is paired by scenario."""
    found: dict[str, Any] = {}
    for name, chosen in {"all": iter, "legal": without_illegal}.items():
        matches = {
            who: list(chosen(episodes(run, at, f"versus/{against}"))) for who, at in (("start", 0), ("kept", kept))
        }
        found[name] = {who: told(those, metric) for who, those in matches.items()}
        shared = {each.scenario.id for each in matches["start"]} & {each.scenario.id for each in matches["kept"]}
        found[name]["gain"] = paired(*matches.values(), metric, ["learner"]).to_json() if shared else None
    return found


def told(matches: Sequence[Episode], metric: str) -> dict[str, Any] | None:
    """The mean of a metric of the learner's, clustered by scenario; None without a match."""
    if not matches:
        return None
    column = [values(each, ["learner"])[metric] for each in matches]
    return estimate(column, [each.scenario.cluster for each in matches]).to_json()


def main(folder: Path, game: str, rest: Sequence[str]) -> int:
    words, script, metric = GAMES[game]
    folder.mkdir(parents=True, exist_ok=True)
    seeds = next((each.partition("=")[2] for each in rest if each.startswith("seeds=")), None)
    more = prepared(folder, Path(rest[0]).resolve()) if game == "referencegame" else []
    extra = [each for each in rest if "=" in each and not each.startswith("seeds=")]  # overrides, for a short trial
    rows: dict[str, Any] = {}
    for seed in map(int, seeds.split(",")) if seeds else SEEDS:
        run = folder / f"{game}_{seed}"
        go_on(run, [*words, *more, *extra, f"name={game}", f"seed={seed}"])
        summary = summary_of(run)
        rows[str(seed)] = {
            "kept": summary["best"], "cpu_seconds": summary["cpu_seconds"],
            "against": {who: figures(run, summary["best"], who, metric) for who in ("start", script)},
            "by_iteration": [each["versus"].get("start", {}).get(metric) for each in summary["iterations"]],
        }  # fmt: skip
        print(seed, json.dumps(rows[str(seed)]), flush=True)
    won = {seed: row["against"]["start"]["all"]["gain"]["low"] > 0 for seed, row in rows.items()}
    sys.argv[1:] = [game, *rest]  # results name no folder of this machine
    record(f"open_{game}", {"overrides": [*words, *extra], "metric": metric, "gained_over_start": won, "seeds": rows})
    return int(not all(won.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]))
