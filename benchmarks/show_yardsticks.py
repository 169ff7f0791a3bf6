"""Every scripted negotiator in self-play on the published contexts, beside the known ceilings.

python benchmarks/show_yardsticks.py path/of/selfplay.txt
"""

from __future__ import annotations

import sys
from statistics import fmean

from parley.data.episode import Episode
from parley.games.base import Scenario
from parley.games.deal import Context, Deal
from parley.games.deal.contexts import allocations, points, rest
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.players import ScriptedPlayer
from parley.report.estimates import summarise
from results import record

SHOWN = ("score", "joint_score", "agreement_rate", "pareto_rate", "pareto_agreed", "actions")


def ceilings(scenarios: list[Scenario]) -> dict[str, float]:
    """Means over the contexts: the best joint score, half of it, and what a random valid split gives a player."""
    best, random = [], []
    for scenario in scenarios:
        context = Context.of(scenario)
        (first, second), counts = context.values, context.counts
        joint = [points(first, share) + points(second, rest(counts, share)) for share in allocations(counts)]
        best.append(max(joint))
        random.append(fmean(joint) / 2)
    found = {"joint_ceiling": fmean(best), "ceiling_per_player": fmean(best) / 2, "random_split": fmean(random)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("give the path of the published selfplay.txt")
    game = Deal(contexts=sys.argv[1], counts="published")
    scenarios = [scenario for split in ("train", "validation", "test") for scenario in game.scenarios(split)]
    figures: dict[str, object] = {"scenarios": len(scenarios), **ceilings(scenarios)}
    print(figures)
    for name, script in game.scripts().items():
        episodes: list[Episode] = []
        Arena(game, {name: ScriptedPlayer(script, name)}).play(
            self_play(game, scenarios, name, 0, "yardstick"), episodes.append
        )
        found = summarise(episodes)
        figures[name] = {metric: found[metric].to_json() for metric in SHOWN}
        print(f"{name:8s}", "  ".join(f"{metric} {found[metric].mean:.3f}" for metric in SHOWN))
    sys.argv[1] = "selfplay.txt"  # results name no folder of this machine
    record("yardsticks", figures)


if __name__ == "__main__":
    main()
