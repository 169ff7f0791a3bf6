"""Leagues of two policies and their copies, on competitive Deal and on Taboo; one killed at five moments and resumed.

    python benchmarks/show_league.py FOLDER [deal|taboo …]   # runs lie in FOLDER, and go on from there

Shown are the ratings with intervals after three iterations, what the exploiter gets from the newest copy of the main
policy in each of them, the Nash mixture against the last snapshot, and that killing changes nothing. Exits with 1
where a claim does not hold.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import record
from show_kill import begun, kill, learning, playing, start
from show_policies import ran

SHARED = [
    "policies={main: {}, exploiter: {}}", "league=pfsp", "iterations=3", "seed=1", "learner.checkpoint_s=1",
    "league.exploiters={exploiter: {against: main, above: 0.65, after: 3}}", "league.scenarios=64",
]  # fmt: skip
GAMES = {
    "deal": [
        "experiment=deal_tiny_self", "game.payoff=comp", "play.scenarios=96", "eval.scenarios=64", "eval.greedy=64",
        "eval.validation=32", "eval.opponents=[]", "metric=versus.start.payoff", "league.anchors=[start,fair]",
    ],
    "taboo": [
        "experiment=spag_tiny", "play.scenarios=96", "play.group=4", "eval.opponents=[]", "eval.final=4",
        "eval.validation_group=2", "league.anchors=[imitation,fair]", "league.scenarios=64",
    ],
}  # fmt: skip


def moments() -> list[tuple[str, Callable[[Path], bool], float]]:
    """When the run is killed, in the order in which it comes there."""
    return [
        ("a meeting", playing("league/main@0~exploiter@0"), 0.0),
        ("play", playing("iter_001/play"), 0.0),
        ("learning", learning(1), 0.2),
        ("a meeting of copies", begun("league/main@1~main@2"), 0.0),
        ("the table", begun("iter_003/league"), 0.0),
    ]


def tables(run: Path) -> dict[int, Any]:
    """What the league found after each iteration."""
    return {
        int(path.parent.parent.name.removeprefix("iter_")): json.loads(path.read_text())["outputs"]
        for path in sorted(run.glob("iter_*/league/stage.json"))
    }


def story(found: dict[int, Any]) -> dict[str, Any]:
    """The figures of a league run."""
    last = found[max(found)]
    newest = f"main@{max(found)}"
    mixture = last["ratings"]["nash"]
    against = {name: last["ratings"]["points"][newest][name] for name in mixture}
    paid = sum(share * (against[name][0] if against[name] else 0.5) for name, share in mixture.items())
    gains = {at: each["ratings"]["points"][f"exploiter@{at}"][f"main@{at}"] for at, each in found.items() if at}
    return {
        "ratings": last["ratings"]["ratings"], "cyclic": last["ratings"]["cyclic"], "shares": last["shares"],
        "exploiter_points": gains, "ages": {at: each["ages"] for at, each in found.items()}, "nash": mixture,
        "last_against_nash": paid,
    }  # fmt: skip


def main() -> None:
    folder, chosen = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(GAMES)
    folder.mkdir(parents=True, exist_ok=True)
    stories: dict[str, Any] = {}
    claims: dict[str, bool] = {}
    for game in chosen:
        words = [*GAMES[game], *SHARED]
        ran(folder / game, words)
        stories[game] = story(tables(folder / game))
        print(json.dumps(stories[game], indent=1), flush=True)
        claims[f"{game}: three iterations, all members rated"] = len(stories[game]["ratings"]) >= 8
    cut, hits = folder / f"{chosen[0]}_cut", []
    if not (cut / "summary.json").exists():
        for _, when, wait in moments():
            hits.append(kill(start(cut, [*GAMES[chosen[0]], *SHARED]), cut, when, wait))
    ran(cut, [*GAMES[chosen[0]], *SHARED])
    claims["killed at five moments and resumed to the same table"] = tables(cut) == tables(folder / chosen[0])
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    del sys.argv[1:]  # results name no folder of this machine
    record(
        "league",
        {"overrides": {game: [*GAMES[game], *SHARED] for game in chosen}, "killed": hits, **stories, "claims": claims},
    )
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
