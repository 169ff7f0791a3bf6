"""Every environment of TextArena that can be played here: the kit, and 100 matches by the random player, each replayed.

    python benchmarks/show_textarena.py [ENVIRONMENT…]

Of each family (all ids with the same word before "-v0") the first is taken, with the fewest seats. Written are: seats,
checks of the kit that failed, how matches ended, the share that an invalid move ended, matches played in a CPU-second,
replays that gave the same requests and the same result, what the environment needs, and why others were not played. An
environment that was measured already is not measured again. Exits with 1 where a check or a replay fails, or fewer than
60 environments were played.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from parley.data.episode import Episode
from parley.data.replay import ReplayError, replay
from parley.games import conformance
from parley.games.textarena import TextArena
from parley.games.textarena.environments import known
from parley.games.textarena.port import environments, library
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from parley.system.files import InputError
from results import ROOT, record

MATCHES, KIT, IN_FLIGHT = 100, 8, 64


def families() -> dict[str, str]:
    """The first id of each family."""
    library()
    found: dict[str, str] = {}
    for env in environments():
        found.setdefault(env.partition("-v")[0], env)
    return found


def measured(env: str) -> dict[str, Any]:
    """One line of the table."""
    try:
        game = TextArena(env)
    except InputError as error:
        return {"not_played": str(error)}
    started, episodes = time.process_time(), list[Episode]()
    player = ScriptedPlayer(game.scripts()["random"], "random")
    scenarios = game.scenarios("train")[:MATCHES]
    Arena(game, {"random": player}, IN_FLIGHT).play(
        self_play(game, scenarios, "random", 0, "iter_001/play"), episodes.append
    )
    seconds = time.process_time() - started
    ends = Counter(episode.result.outcome for episode in episodes)
    return {
        "seats": len(game.roles),
        "kit": [name for name in conformance.CHECKS if not _passes(game, name)],
        "ends": dict(ends.most_common()),
        "invalid_share": round(ends["invalid"] / MATCHES, 3),
        "turns": round(sum(len(episode.turns) for episode in episodes) / MATCHES, 1),
        "matches_per_cpu_s": round(MATCHES / seconds, 1),
        "replayed": sum(_replays(game, episode) for episode in episodes),
        "needs": list(known(env).needs),
    }


def _passes(game: TextArena, check: str) -> bool:
    try:
        conformance.CHECKS[check](game, KIT, 0)
    except conformance.ConformanceError as error:
        print(f"{game.env}: {error}", file=sys.stderr)
        return False
    return True


def _replays(game: TextArena, episode: Episode) -> bool:
    """Whether the stored match is the same when it is played again."""
    try:
        replay(game, Episode.from_json(json.loads(json.dumps(episode.to_json()))))
    except ReplayError as error:
        print(f"{game.env}: {error}", file=sys.stderr)
        return False
    return True


def main(only: list[str]) -> int:
    stored = ROOT / "docs" / "results" / "textarena.json"
    rows: dict[str, Mapping[str, Any]] = json.loads(stored.read_text())["environments"] if stored.exists() else {}
    warnings.simplefilter("ignore", UserWarning)  # matches that an environment fails are counted
    for family, env in families().items():
        if (only and family not in only) or (env in rows and not only):
            continue
        rows[env] = measured(env)
        print(env, rows[env], flush=True)
        record("textarena", {**summed(rows), "environments": rows})
    played = [row for row in rows.values() if "seats" in row]
    failed = [env for env, row in rows.items() if row.get("kit") or row.get("replayed", MATCHES) < MATCHES]
    print(f"{len(played)} environments played, {len(failed)} failed: {failed}")
    return int(bool(failed) or len(played) < 60)


def summed(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    played = [row for row in rows.values() if "seats" in row]
    return {
        "textarena": library().__version__,
        "played": len(played),
        "replayed": sum(row["replayed"] for row in played),
        "kit_passed": sum(not row["kit"] for row in played),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
