"""Learning by self-play in games of others: TextArena's TicTacToe, and clembench's textmapworld, a tiny model each.

    python benchmarks/show_open_learning.py FOLDER tictactoe [seeds=1,2,…]
    python benchmarks/show_open_learning.py FOLDER textmapworld CHECKOUT [seeds=1,2,…]    # a clone of clembench

Runs lie in FOLDER; stopped, the same command goes on from there. The model imitates a script that plays legally and at
random, then learns from its own matches. The start and the kept snapshot, chosen on validation, play the same held-out
scenarios: told are all matches, and those in which nobody made an illegal move. TicTacToe has no chance, so its
scenarios are one and the same match, and intervals are of the players' own chance; start and script are met in both
seats. textmapworld seats one player, who is compared with the start and the script on the same maps; it trains on maps
drawn anew, and all fifty that clembench ships are held out. Exits with 1 where a seed's gain is not above 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clem_scripts import MADE, maps
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
    "imitate.learner.batch_utterances=100", "learner.optimizer.lr=1e-3", "iterations=3", "rounds=12",
    "play.scenarios=16", "play.group=16", "play.sampling.max_tokens=6", "eval.sampling.max_tokens=6",
    "eval.scenarios=100", "eval.validation=40", "eval.opponents=[random]",
]  # fmt: skip
TEXTMAPWORLD = [
    *MODEL, *ONLINE, "game=clembench", "game.name=textmapworld", "game.instances=show_learning", "model.heads=2",
    "model.layers=2", "model.context=1024",
    "+game.scripted.wanderer={_target_: clem_scripts.wanderer, _partial_: true}",
    "metric=sampled.main_score", "imitate.players=[wanderer]", "imitate.matches=1500", "imitate.validation=60",
    "imitate.learner.batch_utterances=100", "learner.optimizer.lr=1e-3", "iterations=3", "rounds=5",
    "play.scenarios=32", "play.group=8", "play.sampling.max_tokens=6", "eval.sampling.max_tokens=6", "eval.group=4",
    "eval.scenarios=50", "eval.validation=50", "eval.opponents=[wanderer]",
]  # fmt: skip
MAPS, VALIDATION = 1050, 50  # maps to train on, and how many of them are for validation


@dataclass(frozen=True)
class Learnt:
    """What is learnt: the options of a run, the script, the metric, and whom the learner meets (evaluation's names);
    with `alone` the learner plays by itself, and so does the script."""

    words: list[str]
    script: str
    metric: str
    meets: dict[str, str]
    alone: bool = False


GAMES = {
    "tictactoe": Learnt(TICTACTOE, "random", "reward", {"start": "versus/start", "random": "versus/random"}),
    "textmapworld": Learnt(TEXTMAPWORLD, "wanderer", "main_score", {"itself": "sampled"}, alone=True),
}


def prepared(folder: Path, checkout: Path) -> list[str]:
    """Writes the maps that are drawn anew into the checkout, and who is held out; what a run must be told of them."""
    place = checkout / "textmapworld" / "textmapworld_main"
    data = maps(place, MAPS, 0)
    write_text(place / "in" / "show_learning.json", json.dumps(data))
    lines = [
        {"game": "textmapworld", "experiment": each["name"], "task_id": row["game_id"],
         "split": "test" if each["name"] != MADE else "validation" if at < VALIDATION else "train"}
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


def figures(run: Path, kept: int, what: str, metric: str, players: list[str] | None) -> dict[str, Any]:
    """The learner in one evaluation, at the start and kept: among all matches, and among those without an illegal
    move; the gain is paired by scenario."""
    found: dict[str, Any] = {}
    for name, chosen in {"all": iter, "legal": without_illegal}.items():
        matches = {who: list(chosen(episodes(run, at, what))) for who, at in (("start", 0), ("kept", kept))}
        found[name] = {who: told(those, metric, players) for who, those in matches.items()}
        shared = {each.scenario.id for each in matches["start"]} & {each.scenario.id for each in matches["kept"]}
        found[name]["gain"] = paired(*matches.values(), metric, players).to_json() if shared else None
    return found


def told(matches: Sequence[Episode], metric: str, players: list[str] | None) -> dict[str, Any] | None:
    """The mean of a metric of `players`, clustered by scenario; None without a match."""
    if not matches:
        return None
    column = [values(each, players)[metric] for each in matches]
    return estimate(column, [each.scenario.cluster for each in matches]).to_json()


def row_of(run: Path, game: Learnt) -> dict[str, Any]:
    """The figures of one seed."""
    summary = summary_of(run)
    players = None if game.alone else ["learner"]
    row = {
        "kept": summary["best"], "cpu_seconds": summary["cpu_seconds"],
        "against": {
            who: figures(run, summary["best"], what, game.metric, players) for who, what in game.meets.items()
        },
        "validation": [each["validation"].get(game.metric) for each in summary["iterations"]],
    }  # fmt: skip
    if game.alone:
        row["script"] = told(list(episodes(run, 0, f"alone/{game.script}")), game.metric, None)
    return row


def main(folder: Path, name: str, rest: Sequence[str]) -> int:
    game = GAMES[name]
    folder.mkdir(parents=True, exist_ok=True)
    seeds = next((each.partition("=")[2] for each in rest if each.startswith("seeds=")), None)
    more = prepared(folder, Path(rest[0]).resolve()) if name == "textmapworld" else []
    extra = [each for each in rest if "=" in each and not each.startswith("seeds=")]  # overrides, for a short trial
    rows: dict[str, Any] = {}
    for seed in map(int, seeds.split(",")) if seeds else SEEDS:
        run = folder / f"{name}_{seed}"
        go_on(run, [*game.words, *more, *extra, f"name={name}", f"seed={seed}"])
        rows[str(seed)] = row_of(run, game)
        print(seed, json.dumps(rows[str(seed)]), flush=True)
    first = next(iter(game.meets))
    won = {seed: row["against"][first]["all"]["gain"]["low"] > 0 for seed, row in rows.items()}
    sys.argv[1:] = [name, *rest]  # results name no folder of this machine
    record(f"open_{name}", {"overrides": [*game.words, *extra], "metric": game.metric, "gained": won, "seeds": rows})
    return int(not all(won.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]))
