"""What known faults would show at length: a model that thinks over 1,000 matches, and servers that lie about costs.

    python benchmarks/show_faults.py [MATCHES]

Thoughts: tiny models of four kinds of chat template (Qwen3's way, channels, thoughts kept, thoughts kept out by option)
imitate scripts with a thought before each reply, then play Deal and Taboo against themselves through the decode loop.
No view may hold a word of a thought; the ids that are trained are those that were sampled. Servers: 64 requests at once
to a server that tells its tokens truly, and to one that lies in fifteen ways; twenty seeds each. What was booked and
what was sent may never pass the ceiling. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from parley.games.base import Game
from parley.games.deal import Deal
from parley.games.taboo import Taboo
from parley.report.forks import Forks
from parley.system.spending import SpendingLimit
from results import ROOT, record

sys.path[:0] = [str(ROOT / "tests" / name) for name in ("", "run", "learners", "backends")]

from test_answer import LIES, PRICES  # noqa: E402
from test_openai import answers, prompt, talking  # noqa: E402
from thinkers import FAMILIES, faults, played, scripted, taught  # noqa: E402

from openai_server import KEY, Server, completion  # noqa: E402

GAMES: dict[str, Game] = {
    "deal": Deal(max_actions=4, retries=1),
    "taboo": Taboo(prompt="compact", turns=3),
}
SEEDS = range(20)


def thoughts(matches: int) -> Iterator[dict[str, Any]]:
    """The faults and figures of each game and kind of template, `matches` in all."""
    share = -(-matches // (len(GAMES) * len(FAMILIES)))
    for name, game in GAMES.items():
        with tempfile.TemporaryDirectory() as folder:
            shown = scripted(game, Path(folder) / "scripted")
            for number, (kind, family) in enumerate(FAMILIES.items()):
                place = Path(folder) / str(number)
                found, backend = played(place / "p", game, taught(place, family, game, shown), share)
                forks = Forks(["me"])
                wrong = [f"{each.id}: {what}" for each in found for what in faults(game, each, backend, family)]
                for each in found:
                    forks.add(each)
                replies = sum(len(each.turns) for each in found)
                row = {"game": name, "template": kind, "matches": len(found), "replies": replies, **forks.figures()}
                print(row, wrong[:3], flush=True)
                yield row | {"faults": len(wrong), "first": wrong[:3]}


def ceilings() -> Iterator[dict[str, Any]]:
    """For a truthful server and a lying one: how many requests were sent, and by how much the ceiling was passed."""
    told = {"truth": [{"prompt_tokens": 7, "completion_tokens": 2}], "lies": list(LIES.values())}
    for name, usages in told.items():
        sent, passed = [], []
        for seed in SEEDS:
            draw = random.Random(f"{name} {seed}")
            most = draw.uniform(100, 3000)
            server = Server(lambda body, draw=draw, usages=usages: completion(body, "so", usage=draw.choice(usages)))
            with talking(server, max_cost=most, concurrency=64, **PRICES) as (asked, backend):
                backend.submit([prompt(number) for number in range(400)])
                with suppress(SpendingLimit):
                    answers(backend, 400)
                sent.append(len(asked.asked))
                passed.append(max(0.0, backend.ledger.spent + backend.ledger.held - most))
        row = {"server": name, "seeds": len(SEEDS), "requests": [min(sent), max(sent)], "passed": max(passed)}
        print(row, flush=True)
        yield row


def main() -> int:
    torch.set_num_threads(1)
    os.environ["SERVER_KEY"] = KEY
    matches = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    limits, found = list(ceilings()), list(thoughts(matches))
    good = all(row["passed"] == 0 for row in limits)
    good &= all(row["faults"] == 0 and row["thought_share"] > 0.5 for row in found)
    record("faults", {"thoughts": found, "ceilings": limits, "good": good})
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
