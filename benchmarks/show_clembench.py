"""The same scores: clembench's games by clemcore's own runner and scorer, and by parley, on the same scripted replies.

    python benchmarks/show_clembench.py CHECKOUT CLEM [GAME…]

CHECKOUT is a clone of clembench, CLEM the command `clem` of an environment that has the whole of clemcore. Up to 20
instances of each game are played by `clem run` and scored by `clem score`, with a backend whose reply is drawn by a
hash of what it is shown, and then by parley with a script that draws the same. Compared are the records, turn by turn,
every score that clemcore's own scorer finds, and the tables of `clem eval` over both results folders. Games that
clemcore's own runner or scorer does not finish are named. Exits with 1 where others differ, or fewer than 8 games were
compared.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from clem_replies import reply
from parley.data.formats import clembench as formats
from parley.data.formats.clembench import Scored
from results import record

INSTANCES = 20
GAMES = (
    "taboo", "referencegame", "guesswhat", "matchit_ascii", "imagegame", "codenames", "textmapworld",
    "textmapworld_graphreasoning", "textmapworld_specificroom", "wordle", "wordle_withclue", "wordle_withcritic",
)  # fmt: skip
BACKEND = """
import os, sys
sys.path.insert(0, os.environ["SHOW"])
from clem_replies import merged, reply
from clemcore import backends

class Scripted(backends.Backend):
    def get_model_for(self, model_spec):
        return Model(model_spec)

class Model(backends.Model):
    def generate_response(self, messages):
        text = reply(merged(messages))
        return list(messages), {"text": text}, text
"""


def official(checkout: Path, clem: str, games: Sequence[str], work: Path) -> Path:
    """The results folder of clemcore's own runner and scorer."""
    from parley.games.clembench.instances import listed

    folder, entries = work / "official", listed(checkout)
    folder.mkdir()
    folder.joinpath("scripted_api.py").write_text(BACKEND)
    folder.joinpath("model_registry.json").write_text('[{"model_name": "scripted", "backend": "scripted"}]')
    specs = [
        {**entries[game].plain, "game_path": str(entries[game].folder.resolve()), "instances": f"show_{game}"}
        for game in games
    ]
    folder.joinpath("game_registry.json").write_text(json.dumps(specs))
    environment = {**os.environ, "SHOW": str(Path(__file__).parent), "PYTHONPATH": ""}
    command = [str(Path(clem).resolve()), "run", "-m", "scripted", "-r", "results", "-g", *games]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    score = [command[0], "score", "-r", "results"]
    subprocess.run(score, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "results"


def shortened(checkout: Path, game: str) -> Path:
    """The first instances of a game, spread over its experiments, as an instance file of its own."""
    from parley.games.clembench.instances import listed

    entry = listed(checkout)[game]
    data = json.loads((entry.folder / "in" / f"{entry.instances}.json").read_text())
    share = max(1, INSTANCES // len(data["experiments"]))
    for experiment in data["experiments"]:
        experiment["game_instances"] = experiment["game_instances"][:share]
    file = entry.folder / "in" / f"show_{game}.json"
    file.write_text(json.dumps(data))
    return file


def ours(checkout: Path, game: str, work: Path) -> Path:
    """The results folder that parley writes of its own matches."""
    from parley.data.episode import Episode
    from parley.games.clembench import Clembench
    from parley.play.arena import Arena
    from parley.play.pairing import self_play
    from parley.play.players import ScriptedPlayer

    def script(request: Any, own: Random, persona: Random) -> str:
        return reply([{"role": each.role, "content": each.content} for each in request.messages])

    built = Clembench(game, str(checkout), instances=f"show_{game}", max_requests=400)
    every = [scenario for split in ("train", "validation", "test") for scenario in built.scenarios(split)]
    episodes: list[Episode] = []
    Arena(built, {"scripted": ScriptedPlayer(script, "scripted")}).play(
        self_play(built, every, "scripted", 0, "show"), episodes.append
    )
    stored = [Episode.from_json(json.loads(json.dumps(each.to_json()))) for each in episodes]
    formats.write(work / "ours", "scripted-t0.0", ((built, each) for each in stored), "instances")
    return work / "ours"


OUTSIDE = {"timestamp", "results_folder", "player_models", "clem_version", "model_name"}


def plain(value: Any) -> Any:
    """A record without the clock, and without who sat there."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in OUTSIDE}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def compared(theirs: Path, mine: Path, game: str) -> dict[str, Any]:
    """How many episodes have the same record and the same scores."""
    counts = {"episodes": 0, "records": 0, "scored": 0, "scores": 0, "aborted": 0, "success": 0}
    for told in sorted(theirs.rglob(f"*/{game}/*/instance_*/interactions.json")):
        other = next(mine.glob(f"*/{game}/{told.parts[-3]}/{told.parts[-2]}/interactions.json"))
        counts["episodes"] += 1
        counts["records"] += plain(json.loads(told.read_text())) == plain(json.loads(other.read_text()))
        if not (score := told.with_name("scores.json")).exists():
            other.with_name("scores.json").unlink(missing_ok=True)  # the tables are of what both have scored
            continue
        counts["scored"] += 1
        one, two = json.loads(score.read_text()), json.loads(other.with_name("scores.json").read_text())
        counts["scores"] += plain(one["episode scores"]) == plain(two["episode scores"])
        counts["aborted"] += one["episode scores"].get("Aborted") == 1
        counts["success"] += one["episode scores"].get("Success") == 1
    return counts


def evaluated(clem: str, results: Path) -> dict[str, str]:
    """The table of `clem eval`."""
    command = [str(Path(clem).resolve()), "eval", "-r", str(results)]
    subprocess.run(command, cwd=results, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    head, row = list(csv.reader((results / "results.csv").read_text().splitlines()))
    return dict(zip(head[1:], row[1:], strict=True))


def scored(results: Path) -> list[Scored]:
    """The scores of every match in a results folder."""
    return [
        Scored(*file.parts[-4:-1], json.loads(file.read_text())["episode scores"])
        for file in sorted(results.rglob("scores.json"))
    ]


def table(results: Path) -> dict[str, float]:
    """parley's own table of a results folder, without the cells that `clem eval` leaves empty."""
    return {key: value for key, value in formats.table(scored(results)).items() if not math.isnan(value)}


def main(checkout: Path, clem: str, games: Sequence[str]) -> int:
    warnings.simplefilter("ignore", UserWarning)
    with tempfile.TemporaryDirectory() as folder:
        work, files = Path(folder), [shortened(checkout, game) for game in games]
        try:
            theirs = official(checkout, clem, games, work)
            finished = [game for game in games if list(theirs.rglob(f"*/{game}/*/*/scores.json"))]
            for game in finished:
                ours(checkout, game, work)
        finally:
            for file in files:
                file.unlink()
        rows = {game: compared(theirs, work / "ours", game) for game in finished}
        own = table(work / "ours")
        tables = [evaluated(clem, results) for results in (theirs, work / "ours")]
    numbers = {key: float(value) for key, value in tables[1].items() if value}
    equal = [
        game for game, row in rows.items() if row["episodes"] == row["records"] and row["scored"] == row["scores"] > 0
    ]
    figures = {
        "games": rows, "equal": equal, "not_finished_by_clemcore": sorted({*games} - {*finished}),
        "clem_eval_equal": tables[0] == tables[1], "parley_table_equal": own == numbers, "table": tables[1],
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    record("clembench", figures)
    return int(len(equal) < len(rows) or len(equal) < 8 or tables[0] != tables[1] or own != numbers)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:] or GAMES))
