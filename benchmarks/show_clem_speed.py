"""CPU time of clembench's games: parley's arena against clemcore's sequential and batch runners.

    python benchmarks/show_clem_speed.py CHECKOUT PYTHON [MODEL]

CHECKOUT is a clone of clembench, PYTHON the python of an environment with the whole of clemcore (and, with MODEL, of
its extra huggingface). All play the same instances, in blocks, and write their records: first with the same scripted
replies, then with those of MODEL, a folder of a Llama that answers greedily with at most 30 tokens. Parley and the
batch runner have a block in flight. Told are the ratios of CPU-seconds, clemcore's by parley's, as geometric means over
blocks with 95 % intervals of Student's t; the share of CPU time outside the model's forward pass; the share of matches
with the same replies. Exits with 1 where parley with MODEL is not faster than the sequential runner, or slower than .9
of the batch runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import exp, log
from pathlib import Path
from random import Random
from statistics import mean, stdev
from time import process_time
from typing import Any

from clem_replies import reply
from parley.data.store import Matches
from parley.games.clembench import Clembench
from parley.games.clembench.instances import listed
from parley.play.pairing import self_play
from parley.play.player import Sampling
from parley.play.seats import Seats
from parley.report.estimates import t_quantile
from results import record

SCRIPTED = {"referencegame": 10, "guesswhat": 10}  # game -> blocks that count
ANSWERED = {"referencegame": 4}
BLOCK = 10  # instances of a block
TOKENS = 30  # of a reply
ALL = "show_speed"  # the instance file of all


def blocks(folder: Path, count: int) -> list[str]:
    """Writes instance files of a block each, and one before them that does not count; their names."""
    data = json.loads((folder / "instances.json").read_text())
    every = [(each["name"], row) for each in data["experiments"] for row in each["game_instances"]]
    drawn, stems = Random(0).sample(every, len(every)) * (2 + count * BLOCK // len(every)), list[str]()
    (folder / f"{ALL}.json").write_text(json.dumps(data))
    for number in range(count + 1):
        taken = drawn[number * BLOCK : (number + 1) * BLOCK]
        experiments = [
            {**each, "game_instances": [row for name, row in taken if name == each["name"]]}
            for each in data["experiments"]
        ]
        stems.append(f"show_speed_{number}")
        text = json.dumps({**data, "experiments": [each for each in experiments if each["game_instances"]]})
        (folder / f"{stems[-1]}.json").write_text(text)
    return stems


def theirs(python: str, folder: Path, game: str, work: Path, batch: int, model: str, stems: list[str]) -> list[Any]:
    """What clem_runner says of each block of the game in `folder`."""
    here = Path(__file__).parent
    command = [python, str(here / "clem_runner.py"), str(folder), game, str(work), str(batch), model, *stems]
    environment = {**os.environ, "PYTHONPATH": str(here)}
    work.mkdir()
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@contextmanager
def quiet(matches: int, person: bool) -> Iterator[Any]:
    yield lambda report: None


def script(request: Any, own: Random, persona: Random) -> str:
    return reply([{"role": each.role, "content": each.content} for each in request.messages])


class Clock:
    """The CPU time of every forward pass of a Llama."""

    def __init__(self) -> None:
        self.spent = 0.0

    def started(self) -> None:
        from transformers import LlamaForCausalLM

        plain = LlamaForCausalLM.forward

        def forward(*args: Any, **options: Any) -> Any:
            began = process_time()
            try:
                return plain(*args, **options)
            finally:
                self.spent += process_time() - began

        LlamaForCausalLM.forward = forward


def ours(checkout: Path, folder: Path, game: str, work: Path, model: str, stems: list[str]) -> list[dict[str, Any]]:
    """The same of parley's arena."""
    clock, snapshots, who, backend = Clock(), {}, "scripted", nobody
    if model != "scripted":
        from parley.backends.hf import HFBackend
        from parley.models import snapshot

        who, backend = "learner", HFBackend
        snapshots = {who: snapshot.of(model, who)}
        clock.started()
    built = Clembench(game, str(checkout), instances=ALL, held_out=0.0, scripted={"scripted": script})
    at = {(each.data["experiment"], each.data["game_id"]): each for each in built.scenarios("train")}
    rows = []
    with Seats(built, backend, BLOCK).open(Sampling(temperature=0.0, max_tokens=TOKENS), snapshots) as sitting:
        for number, stem in enumerate(stems):
            scenarios = [at[key] for key in instances(folder / "in" / f"{stem}.json")]
            began, inside, place = process_time(), clock.spent, work / f"{number}"
            sitting.play(place, self_play(built, scenarios, who, 0, f"{number}"), quiet)
            said = {
                match.scenario.id.partition(":")[2]: [turn.text for turn in match.turns] for match in Matches(place)
            }
            rows.append({"cpu_s": process_time() - began, "model_s": clock.spent - inside, "said": said})
    return rows[1:]  # the first block loads the model


def instances(file: Path) -> list[tuple[str, str]]:
    """Experiment and id of each instance of a file."""
    data = json.loads(file.read_text())["experiments"]
    return [(each["name"], str(row["game_id"])) for each in data for row in each["game_instances"]]


def nobody() -> Any:
    raise RuntimeError("no model plays")


def ratio(mine: list[Any], others: list[Any]) -> dict[str, float]:
    """Their CPU-seconds by ours."""
    logs = [log(other["cpu_s"] / own["cpu_s"]) for own, other in zip(mine, others, strict=True)]
    half = t_quantile(len(logs) - 1) * stdev(logs) / len(logs) ** 0.5
    found = {"mean": mean(logs), "low": mean(logs) - half, "high": mean(logs) + half}
    return {key: round(exp(value), 3) for key, value in found.items()}


def compared(checkout: Path, python: str, game: str, count: int, model: str) -> dict[str, Any]:
    """Both of clemcore's runners and parley on the blocks of a game."""
    folder = listed(checkout)[game].folder.resolve()
    stems = blocks(folder / "in", count)
    try:
        with tempfile.TemporaryDirectory() as work:
            run = partial(theirs, python, folder, game)
            found = {
                "sequential": run(Path(work) / "one", 1, model, stems),
                "parley": ours(checkout, folder, game, Path(work) / "ours", model, stems),
                "batch": run(Path(work) / "many", BLOCK, model, stems),
            }
    finally:
        for stem in (ALL, *stems):
            (folder / "in" / f"{stem}.json").unlink()
    mine = found.pop("parley")
    told: dict[str, Any] = {"game": game, "blocks": count, "matches": count * BLOCK}
    told |= {"parley_ms": per_match(mine), "outside_the_model": outside(mine)}
    for name, rows in found.items():
        same = [row["said"].get(key) == words for own, row in zip(mine, rows, strict=True)
                for key, words in own["said"].items()]  # fmt: skip
        told[name] = {"ms": per_match(rows), "ratio": ratio(mine, rows), "same_replies": round(mean(same), 3),
                      "outside_the_model": outside(rows)}  # fmt: skip
    told["replies"] = sum(len(words) for row in mine for words in row["said"].values())
    return told


def per_match(rows: list[Any]) -> float:
    return round(1000 * mean(row["cpu_s"] for row in rows) / BLOCK, 2)


def outside(rows: list[Any]) -> float:
    return round(1 - sum(row["model_s"] for row in rows) / sum(row["cpu_s"] for row in rows), 4)


def main(checkout: Path, python: str, model: str | None) -> int:
    figures: dict[str, Any] = {"scripted": [], "answered": []}
    asked = [("scripted", SCRIPTED, "scripted"), *([("answered", ANSWERED, model)] if model else [])]
    for kind, games, player in asked:
        for game, count in games.items():
            figures[kind].append(compared(checkout, python, game, count, player))
            print(json.dumps(figures[kind][-1]), flush=True)
    record("clem_speed", figures)
    rows = figures["answered"]
    return int(any(row["sequential"]["ratio"]["low"] <= 1 or row["batch"]["ratio"]["mean"] < 0.9 for row in rows))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
