"""clembench's privateshared, whose master asks the answerer aside: kit, play, replay, credit, with a script.

    python benchmarks/show_probes.py CHECKOUT

CHECKOUT is a clone of clembench. Every instance is played once by a script that tells a detail at random, and again
from its stored record. Shown are the checks of the kit that fail, how matches ended, turns by kind, matches that
replayed, and, of the replies that credit may train on, how many answer a question aside. Exits with 1 where a check
fails, a match does not replay, no question was asked aside, or credit lets in an answer to one.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from parley.credit import FilteredBC
from parley.credit.base import logs
from parley.data.episode import Episode
from parley.data.replay import ReplayError
from parley.data.replay import replay as again
from parley.games import conformance
from parley.games.clembench import Clembench
from parley.games.splits import SPLITS
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from results import record

KIT = 10  # matches of each check
DETAIL = re.compile(r"^[A-Z ]+: (.+)$", re.MULTILINE)


def script(request: Any, own: Random, persona: Random) -> str:
    if request.messages[-1].content.startswith("ME:"):
        return f"ASIDE: {own.choice(['yes', 'no'])}"
    return f"ANSWER: {own.choice(DETAIL.findall(request.messages[0].content))}"


def failed(game: Clembench) -> list[str]:
    """The checks of the kit that the game does not pass."""
    found = []
    for name, check in conformance.CHECKS.items():
        try:
            check(game, KIT, 0)
        except conformance.ConformanceError as error:
            found.append(f"{name}: {error}")
    return found


def replays(game: Clembench, episode: Episode) -> bool:
    try:
        again(game, Episode.from_json(json.loads(json.dumps(episode.to_json()))))
    except ReplayError:
        return False
    return True


def main(checkout: str) -> int:
    game = Clembench("privateshared", checkout, max_requests=400, history=True, scripted={"script": script})
    episodes: list[Episode] = []
    plan = self_play(game, [each for split in SPLITS for each in game.scenarios(split)], "script", 0, "probes")
    Arena(game, {"script": ScriptedPlayer(script, "script")}).play(plan, episodes.append)
    owned = [replace(each, policies=dict.fromkeys(each.players, "script")) for each in episodes]  # as a model's own
    aside = {(each.id, turn.request) for each in owned for turn in each.turns if turn.kind == "probe"}
    trained = {(log.episode.id, request) for log in logs(owned) for request in log.replies()}
    figures = {
        "matches": len(episodes), "kit_failed": failed(game),
        "ends": dict(Counter(each.result.outcome for each in episodes)),
        "turns": dict(Counter(turn.kind for each in episodes for turn in each.turns)),
        "replayed": sum(replays(game, each) for each in episodes),
        "logs_credited": len(FilteredBC(keep="all")(owned, "script").table),
        "trained_replies": len(trained), "trained_asides": len(trained & aside),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    record("probes", figures)
    whole = figures["replayed"] == len(episodes) and not figures["kit_failed"]
    return int(not whole or not aside or bool(trained & aside))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
