"""CPU time of scripted matches of TextArena: parley's arena against TextArena's own loop, on the same replies.

    python benchmarks/show_open_speed.py [ENV ...] [--matches 100] [--blocks 10] [--no-record]

A script draws from the listed moves. Parley plays the matches of a block and stores them; then TextArena's documented
loop (`make`, `reset`, `get_observation`, `step`, `close`) plays them again from the stored replies, and writes a line
of JSON for each. Rewards must be the same. Told is the ratio of CPU-seconds, TextArena's by parley's, as a geometric
mean over blocks with a 95 % interval of Student's t. Writes docs/results/open_speed.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from math import exp, log
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import textarena
from parley.data.episode import Episode
from parley.data.store import Matches
from parley.games.textarena.game import TextArena
from parley.play.pairing import self_play
from parley.play.player import Sampling
from parley.play.seats import Seats
from parley.report.estimates import t_quantile
from results import record

ENVS = ["TicTacToe-v0", "WildTicTacToe-v0", "Breakthrough-v0", "ConnectFour-v0"]


@contextmanager
def quiet(matches: int, person: bool) -> Any:
    yield lambda report: None


def nobody() -> Any:
    raise RuntimeError("no model plays")


def ours(game: TextArena, folder: Path, count: int, seed: int) -> list[Episode]:
    """Plays and stores a block."""
    plan = self_play(game, game.scenarios("train")[:count], "random", seed, folder.name)
    Seats(game, nobody, 256).play(folder, plan, Sampling(), {}, quiet)
    return list(Matches(folder))


def theirs(game: TextArena, played: list[Episode], file: Path) -> list[dict[int, float]]:
    """Plays the block again by TextArena's loop, from its replies."""
    found = []
    with open(file, "w") as out:
        for episode in played:
            env = textarena.make(env_id=game.env)
            env.reset(num_players=len(game.roles), seed=episode.scenario.data["seed"])
            done, steps = False, []
            replies = iter(episode.turns)
            while not done and (turn := next(replies, None)) is not None:
                player, observation = env.get_observation()
                done, _ = env.step(action=turn.text)
                steps.append({"player": player, "action": turn.text, "length": len(observation)})
            rewards, _ = env.close()
            found.append(rewards)
            out.write(json.dumps({"id": episode.id, "steps": steps, "rewards": rewards}) + "\n")
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def block(game: TextArena, folder: Path, count: int, seed: int) -> tuple[float, float, float]:
    """(parley's CPU-seconds, TextArena's, share of matches with the same rewards)."""
    played, mine = timed(lambda: ours(game, folder / f"b{seed}", count, seed))
    rewards, others = timed(lambda: theirs(game, played, folder / f"b{seed}.jsonl"))
    pairs = zip(played, rewards, strict=True)
    same = [[*each.result.returns.values()] == [float(own[at]) for at in sorted(own)] for each, own in pairs]
    return mine, others, mean(map(float, same))


def shown(env: str, matches: int, blocks: int) -> dict[str, Any]:
    game = TextArena(env, scenarios=matches)
    with tempfile.TemporaryDirectory() as folder:
        block(game, Path(folder), 5, blocks)  # imports and first uses
        found = [block(game, Path(folder), matches, seed) for seed in range(blocks)]
    logs = [log(other / mine) for mine, other, _ in found]
    half = t_quantile(len(logs) - 1) * stdev(logs) / len(logs) ** 0.5
    ratio = {key: round(exp(value), 3) for key, value in
             (("mean", mean(logs)), ("low", mean(logs) - half), ("high", mean(logs) + half))}  # fmt: skip
    per = {name: round(1000 * sum(each[at] for each in found) / matches / blocks, 2) for at, name in
           enumerate(("parley_ms", "textarena_ms"))}  # fmt: skip
    return {"env": env, "ratio": ratio, **per, "same_rewards": mean(each[2] for each in found)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("envs", nargs="*", default=ENVS)
    parser.add_argument("--matches", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--no-record", action="store_true")
    asked = parser.parse_args()
    rows = []
    for env in asked.envs:
        rows.append(shown(env, asked.matches, asked.blocks))
        print(json.dumps(rows[-1]), flush=True)
    if not asked.no_record:
        record("open_speed", {"matches": asked.matches, "blocks": asked.blocks, "environments": rows})
    sys.exit(any(row["same_rewards"] < 1 for row in rows))
