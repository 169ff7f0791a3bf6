"""Exact answers: the walk against OpenSpiel, and the bias of sampled policies.

    python benchmarks/show_exact.py [repetitions]

OpenSpiel is asked where it is installed (pip install open_spiel), else its numbers in tests/fixtures/openspiel.json
stand for it. Exits with 1 where a claim does not hold.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from random import Random
from statistics import mean, stdev
from typing import Any

from parley.games.exact import Kuhn, Leduc
from parley.games.exact.kuhn import betting, equilibrium
from parley.games.tree import Policy, Tree, best_response, exploitability, grown, uniform, values
from parley.run.exploit import bounds
from parley.run.strategies import counted
from results import ROOT, record

NAMES = {"kuhn": "kuhn_poker", "leduc": "leduc_poker"}
SAMPLES = (4, 16, 64, 256)


def drawn(tree: Tree, seed: str) -> Policy:
    """The policies of the fixture: chances that depend on the seed and on what the seat knows alone."""
    found = {}
    for info, request in tree.requests.items():
        seen = request.observation or {}
        rounds = seen["moves"] if "public" in seen else [seen["moves"]]
        moves = "/".join("".join(move[0] for move in each) for each in rounds)
        words = [seed, request.seat, seen["card"], seen.get("public", ""), moves]
        chances = {reply: Random("/".join([*words, reply])).random() for reply in tree.replies(info)}
        found[info] = {reply: each / sum(chances.values()) for reply, each in chances.items()}
    return found


def apart(tree: Tree, told: dict[str, Any]) -> float:
    """The largest difference to stored values, best responses and exploitabilities."""
    worst = 0.0
    for seed, row in told.items():
        policy = uniform(tree) if seed == "uniform" else drawn(tree, seed)
        now = values(tree, policy)
        mine = [*now.values(), *(best_response(tree, seat, policy).value for seat in now), exploitability(tree, policy)]
        theirs = [*row["values"], *row["best_response"], row["exploitability"]]
        worst = max(worst, *(abs(a - b) for a, b in zip(mine, theirs, strict=True)))
    return worst


def live(name: str) -> float | None:
    """OpenSpiel's exploitability of uniform play, where it is installed."""
    if find_spec("pyspiel") is None:
        return None
    import pyspiel
    from open_spiel.python.algorithms.exploitability import exploitability as theirs
    from open_spiel.python.policy import UniformRandomPolicy

    game = pyspiel.load_game(NAMES[name])
    return float(theirs(game, UniformRandomPolicy(game)))


def biases(tree: Tree, policy: Policy, repetitions: int) -> dict[str, Any]:
    """Mean and deviation of both bounds over repeated samples, by replies in each information set."""
    found: dict[str, Any] = {}
    for count in SAMPLES:
        made: dict[str, list[float]] = {"upper": [], "lower": []}
        for seed in range(repetitions):
            random = Random(f"{count}/{seed}")
            said = {i: random.choices(list(own), weights=list(own.values()), k=count) for i, own in policy.items()}
            for name, each in bounds(tree, counted(tree, said), random, 0).items():
                made[name].append(each["mean"])
        found[str(count)] = {name: {"mean": mean(each), "deviation": stdev(each)} for name, each in made.items()}
    return found


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    stored = json.loads((ROOT / "tests/fixtures/openspiel.json").read_text())
    figures: dict[str, Any] = {"openspiel": stored["made by"], "games": {}}
    claims: dict[str, bool] = {}
    trees = {}
    for name, game in {"kuhn": Kuhn(), "leduc": Leduc()}.items():
        began = time.process_time()
        tree = trees[name] = grown(game, 10_000)
        alike = exploitability(tree, uniform(tree))
        seconds = time.process_time() - began
        difference, theirs = apart(tree, stored["games"][name]), live(name)
        figures["games"][name] = {
            "information_sets": len(tree.requests), "nodes": tree.nodes, "uniform": alike, "openspiel_live": theirs,
            "largest_difference": difference, "cpu_seconds": round(seconds, 3),
        }  # fmt: skip
        print(f"{name}: uniform play {alike:.4f}, apart from OpenSpiel by at most {difference:.1e}")
        claims[f"{name}: equal to OpenSpiel to 1e-12"] = difference < 1e-12 and abs((theirs or alike) - alike) < 1e-12
    claims["uniform play: Kuhn .4583, Leduc 2.3736"] = [
        f"{each['uniform']:.4f}" for each in figures["games"].values()
    ] == ["0.4583", "2.3736"]
    kuhn = trees["kuhn"]
    nash = {info: betting(equilibrium(1 / 6)).chances(request) for info, request in kuhn.requests.items()}  # type: ignore[attr-defined]
    claims["Kuhn's equilibrium cannot be exploited"] = exploitability(kuhn, nash) < 1e-12
    figures["sampled"] = {"nash": biases(kuhn, nash, repetitions), "uniform": biases(kuhn, uniform(kuhn), repetitions)}
    figures["repetitions"] = repetitions
    truth = {"nash": 0.0, "uniform": exploitability(kuhn, uniform(kuhn))}
    for name, rows in figures["sampled"].items():
        for count, each in rows.items():
            shown = ", ".join(f"{bound} {of['mean']:.3f} ± {of['deviation']:.3f}" for bound, of in each.items())
            print(f"{name} ({truth[name]:.4f}), {count} replies in each set: {shown}")
        claims[f"{name}: upper is not below the truth, lower not above, to within two standard errors"] = all(
            each["upper"]["mean"] > truth[name] - 2 * each["upper"]["deviation"] / repetitions**0.5
            and each["lower"]["mean"] < truth[name] + 2 * each["lower"]["deviation"] / repetitions**0.5
            for each in rows.values()
        )
    for text, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {text}")
    record("exact", {**figures, "claims": claims})
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
