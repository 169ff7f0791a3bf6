"""playpen's example on SmolLM2-135M-Instruct, on a CPU: play, fine-tune on successful interactions, play again.

    make smollm
    python benchmarks/show_playpen.py FOLDER CHECKOUT CLEM [override …]   # runs lie in FOLDER, and go on from there

CHECKOUT is a clone of clembench, CLEM the command `clem` of an environment that has the whole of clemcore. A suite of
four games: taboo, referencegame and textmapworld are trained on, guesswhat is held out. As in playpen, the interactions
are those in which somebody better reached the goal: here scripts, on training instances, brought in as playpen's rows.
Ten training instances of each training game, and ten held-out ones of every game, are played before and after. Told are
% played, quality and the clemscore of each of these sets. Exits with 1 where `clem eval` finds another table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clem_scripts import Lettered, careless, explorer
from parley.cli.tasks.opengames import interval
from parley.data.formats import clembench
from parley.data.formats.clembench import Scored
from parley.games.base import Script
from parley.games.clembench import Clembench
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from results import record
from show_clembench import evaluated, scored, table

HELD_OUT, INSTANCES = "guesswhat", 10
DEMONSTRATED = {"taboo": 20, "referencegame": 20, "textmapworld": 10}  # training games, and how many instances of each
SUITE = [
    "game=clembench_suite", f"game.only=[{','.join((*DEMONSTRATED, HELD_OUT))}]", f"game.unseen=[{HELD_OUT}]",
    f"game.limit={INSTANCES}", "metric=sampled.taboo.main_score", "play.sampling.temperature=0.0",
    "play.sampling.max_tokens=60", "play.in_flight=16", "imitate.matches=0", "hardware=cpu",
]  # fmt: skip
TUNED = [
    "task=imitate", "data=conversations", "data.format=playpen", "data.where={outcome: success}",
    "imitate.learner.epochs=2", "imitate.learner.batch_utterances=16", "imitate.learner.optimizer.lr=3e-4",
    "++imitate.learner.warmup=0.1", "++imitate.learner.checkpoint_s=60",
]  # fmt: skip


def parley(out: Path, words: Sequence[str], done: str) -> None:
    """Runs a command, unless the file `done` that it writes is there."""
    if not (out / done).exists():
        where = f"resume={out}" if (out / "config.yaml").exists() else f"hydra.run.dir={out}"
        subprocess.run([sys.executable, "-m", "parley", *words, where], check=True)


def demonstrated(checkout: Path, folder: Path) -> Path:
    """Plays training instances with the scripts, and stores them as clembench does."""
    scripts: dict[str, Script] = {"taboo": Lettered(checkout), "referencegame": careless, "textmapworld": explorer}
    for name, count in DEMONSTRATED.items():
        game = Clembench(name, str(checkout), max_requests=100)
        matches: list[Any] = []
        plan = self_play(game, game.scenarios("train")[:count], "script", 0, "demonstrations")
        Arena(game, {"script": ScriptedPlayer(scripts[name], "script")}).play(plan, matches.append)
        clembench.write(folder, "script", ((game, each) for each in matches), "instances")
    return folder


def trained(checkout: Path) -> set[tuple[str, str, str]]:
    """The training instances: game, experiment and number."""
    games = [Clembench(name, str(checkout), max_requests=100) for name in DEMONSTRATED]
    return {
        (game.game, each.data["experiment"], f"instance_{int(each.data['game_id']):05d}")
        for game in games for each in game.scenarios("train")
    }  # fmt: skip


def columns(rows: Sequence[Scored]) -> dict[str, Any]:
    """The columns of `clem eval`, None where nothing was played to its end, and the clemscore with its interval."""
    sure = interval(rows)
    numbers = {name: None if value != value else value for name, value in clembench.table(rows).items()}
    return {"instances": len(rows), **numbers, "interval": sure and sure.to_json()}


def figures(run: Path, clem: str, known: set[tuple[str, str, str]]) -> dict[str, Any]:
    """The tables of a results folder, by set of instances, and whether `clem eval` finds the same for all."""
    rows = scored(run / "results")
    seen = [row for row in rows if (row.game, row.experiment, row.instance) in known]
    sets = {
        "training instances": seen,
        "held-out instances": [row for row in rows if row.game != HELD_OUT and row not in seen],
        "held-out game": [row for row in rows if row.game == HELD_OUT],
    }
    theirs = {key: float(value) for key, value in evaluated(clem, run / "results").items() if value}
    told = {name: columns(each) for name, each in {**sets, "all": rows}.items()}
    return {**told, "clem_eval_equal": table(run / "results") == theirs}


def main(folder: Path, checkout: Path, clem: str, more: Sequence[str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    own = [] if any(word.startswith("model=") for word in more) else ["model=smollm2"]
    base = [*SUITE, f"game.path={checkout}", *own, *more]
    played = ["task=clembench", "task.splits=[train,test]", *base]
    parley(folder / "before", played, "results/results.csv")
    parley(
        folder / "rows", ["task=import", f"task.path={demonstrated(checkout, folder / 'demonstrations')}"], "rows.jsonl"
    )
    tuned = [*base, *TUNED, f"data.path={folder / 'rows' / 'rows.jsonl'}"]
    parley(folder / "tuned", tuned, "iter_000/start/stage.json")
    parley(folder / "after", [*played, f"run={folder / 'tuned'}"], "results/results.csv")
    outcomes = [json.loads(line)["meta"].get("outcome") for line in (folder / "rows" / "rows.jsonl").open()]
    found = {name: figures(folder / name, clem, trained(checkout)) for name in ("before", "after")}
    found |= {"chats": len(outcomes), "successful": outcomes.count("success")}
    print(json.dumps(found, indent=1))
    sys.argv[1:] = list(more)  # results name no folder of this machine
    record("playpen", {"overrides": {"suite": SUITE, "fine-tuning": TUNED}, "demonstrated": DEMONSTRATED, **found})
    return int(not all(found[name]["clem_eval_equal"] for name in ("before", "after")))


if __name__ == "__main__":
    main_folder, main_checkout = (Path(word).resolve() for word in sys.argv[1:3])
    sys.exit(main(main_folder, main_checkout, sys.argv[3], sys.argv[4:]))
