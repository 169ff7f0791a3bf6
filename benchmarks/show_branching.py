"""The variance of a reply's advantage: branches of a turn as its baseline against a group, at equal tokens.

    python benchmarks/show_branching.py FOLDER [SEED ...]

Cooperative Deal, a tiny model that has imitated scripts. One round with two matches a scenario, each continued four
times from one turn (`play.branches=4`); another of matches alone, of which as many a scenario count as come nearest to
the same number of sampled tokens. Both baselines leave the reply's own match out. Measured is the mean square of the
advantage over legal replies, which have no mean, and the ratio of the two, with a 95 % interval of 2,000 bootstrap
samples of scenarios. Writes docs/results/branching.json.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from parley.cli.tasks import training
from parley.credit import Advantage
from parley.data.episode import Episode
from parley.data.store import Matches
from parley.run.build import running
from parley.run.loop import Loop
from results import record

SCENARIOS, GROUP, BRANCHES, MOST, RESAMPLES = 60, 2, 4, 10, 2_000
IMITATED = ["imitate.matches=1500", "imitate.validation=0", "imitate.learner.epochs=2"]
KEYS = ("scenario", "seat", "opponents")


@dataclass(frozen=True)
class Squares:
    """Sums over the replies of one scenario."""

    total: float
    count: int


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", ["play.sampling.temperature=1.0", f"play.scenarios={SCENARIOS}", *words])


def round_of(out: Path, start: Path, *words: str) -> list[Episode]:
    """The matches of one round of play from the model in `start`."""
    begin = ["model=hf", f"model.path={start}/iter_000/start/snapshot", "imitate.matches=0", "imitate.validation=0"]
    resume = [f"resume={out}"] if (out / "config.yaml").exists() else []
    with running(config(*begin, *words, *resume), out) as run:
        loop = Loop(run)
        history = [loop.start()]
        with loop.seated(history) as sitting:
            loop.self_play(loop.of(1)[0], history, sitting)
    return list(Matches(out / "iter_001/play"))


def tokens(matches: Iterable[Episode]) -> int:
    return sum(len(turn.call.sampled_ids) for each in matches for turn in each.own if turn.call)


def nearest(matches: list[Episode], wanted: int) -> list[Episode]:
    """As many matches of each scenario as come nearest to `wanted` tokens."""
    groups: dict[str, list[Episode]] = defaultdict(list)
    for each in matches:
        groups[each.scenario.id].append(each)
    cuts = [[each for own in groups.values() for each in own[:k]] for k in range(2, MOST + 1)]
    return min(cuts, key=lambda cut: abs(tokens(cut) - wanted))


def squares(matches: list[Episode], by: tuple[str, ...], late: bool) -> dict[str, Squares]:
    """Scenario -> sums of squared advantages; `late`: only of replies that are compared with branches."""
    credit = Advantage(baseline="leave_one_out", by=by, illegal=None, zeros=True)  # type: ignore[arg-type]
    scenario, cut = (
        {each.id: each.scenario.id for each in matches},
        dict(each.parent for each in matches if each.parent),
    )
    after = {
        each.id: {
            turn.request for turn in each.turns[each.parent[1] if each.parent else cut.get(each.id, len(each.turns)) :]
        }
        for each in matches
    }
    found: dict[str, list[float]] = defaultdict(list)
    given = credit(matches, "learner")
    requests = {(each.match, each.seat): each.replies for each in given.table}
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in given.samples:
        match, seat, _ = sample.id.rsplit("/", 2)
        values[match, seat] += [each.reward for each in sample.utterances]
    for (match, seat), own in values.items():
        for request, value in zip(requests[match, seat], own, strict=True):
            if not late or request in after[match]:
                found[scenario[match]].append(value)
    return {name: Squares(sum(x * x for x in own), len(own)) for name, own in found.items()}


def ratio(one: dict[str, Squares], other: dict[str, Squares], seed: int) -> dict[str, float]:
    """Mean squares, `one` by `other`, with an interval over scenarios."""
    names = sorted(one.keys() & other.keys())

    def of(chosen: list[str]) -> float:
        means = [
            sum(each[name].total for name in chosen) / max(sum(each[name].count for name in chosen), 1)
            for each in (one, other)
        ]
        return means[0] / means[1] if means[1] else float("nan")

    draw = random.Random(seed)
    drawn = sorted(of(draw.choices(names, k=len(names))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return {key: round(value, 3) for key, value in (("mean", of(names)), ("low", low), ("high", high))}


def shown(folder: Path, start: Path, seed: int) -> dict[str, Any]:
    branched = round_of(
        folder / f"branches_{seed}", start, f"play.group={GROUP}", f"play.branches={BRANCHES}", f"seed={seed}"
    )
    many = round_of(folder / f"group_{seed}", start, f"play.group={MOST}", f"seed={seed}")
    grouped = nearest(many, tokens(branched))
    theirs = squares(grouped, KEYS, late=False)
    row: dict[str, Any] = {
        "seed": seed, "tokens_branches": tokens(branched), "tokens_group": tokens(grouped),
        "matches_branches": len(branched), "matches_group": len(grouped),
    }  # fmt: skip
    for name, late in (("all_replies", False), ("replies_after_the_branching", True)):
        row[name] = ratio(squares(branched, (*KEYS, "prefix"), late), theirs, seed)
    return row


def rows(folder: Path, seeds: list[int]) -> Iterator[dict[str, Any]]:
    if not (folder / "start/iter_000/start/stage.json").exists():
        training.imitate(config(*IMITATED), folder / "start")
    for seed in seeds:
        yield shown(folder, folder / "start", seed)


if __name__ == "__main__":
    found = []
    for row in rows(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]] or [1, 2, 3]):
        print(json.dumps(row), flush=True)
        found.append(row)
    record("branching", {"variance_of_branches_by_that_of_the_group": found})
