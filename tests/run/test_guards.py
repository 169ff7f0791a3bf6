"""Guards: each alarm on made rows; and a run whose forced alarm rolls back at half the rate."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import training
from parley.credit import Advantage
from parley.data.store import Matches
from parley.learners.optim import AdamW, Muon
from parley.run.build import build
from parley.run.guards import Guards
from parley.run.lineage import Lineage

CALM = {"returns": {"a": 0.0, "b": 0.0}, "entropy": 1.0, "reply_tokens": 10.0, "illegal": 0.02, "cut": 0.0, "dead": 0.2}


def rounds(count: int = 8, **changes: Any) -> list[dict[str, Any]]:
    return [
        {**CALM, **{name: value(at) if callable(value) else value for name, value in changes.items()}}
        for at in range(count)
    ]


def said(
    now: list[dict[str, Any]], zero_sum: bool = False, first: list[dict[str, Any]] | None = None, **how: Any
) -> list[str]:
    return Guards(**how).alarms([first or rounds(), now], [], zero_sum)


def score(mean: float, half: float = 0.1) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entropy": 0.2}, "0.2 nats a token, expected 0.25 to 2"),
        ({"entropy": 2.1}, "2.1 nats a token"),
        ({"reply_tokens": 31.0}, "31 tokens a reply, expected 3.333 to 30"),
        ({"reply_tokens": 3.0}, "3 tokens a reply"),
        ({"illegal": 0.08}, "0.08 of the replies are illegal, expected 0 to 0.07"),
        ({"cut": 0.06}, "0.06 of the replies are cut off, expected at most 0.05"),
        ({"mismatch": 0.01}, "0.01 between trainer and sampler"),
        ({"dead": 1.0}, "1 of the logs have no advantage"),
    ],
)
def test_each_alarm(changes: dict[str, float], words: str) -> None:
    assert said(rounds()) == []
    [text] = said(rounds(**changes))
    assert words in text
    [(name, value)] = changes.items()
    late = {name: lambda at: value if at >= 6 else CALM.get(name, 0.0)}
    assert said(rounds(**late)) == [text]  # the last quarter of the rounds counts
    assert said(rounds(**changes), **{"length" if name == "reply_tokens" else name: None}) == []


def test_a_format_that_breaks_is_seen_in_the_first_iteration() -> None:
    breaking = rounds(illegal=lambda at: 0.02 + 0.05 * at)
    assert Guards().alarms([breaking], [], False) == ["0.345 of the replies are illegal, expected 0 to 0.07"]


def test_the_score_against_the_start_must_stay_down() -> None:
    guards = Guards(anchor=2.0, readings=2)
    assert guards.alarms([], [score(0.0), score(3.0), score(2.0)], False) == []  # one reading
    [text] = guards.alarms([], [score(0.0), score(3.0), score(2.0), score(2.2)], False)
    assert text == "the score against the start is 2.2, and was 3"
    assert guards.alarms([], [score(0.0), score(3.0), score(2.0), score(2.95)], False) == []
    assert guards.alarms([], [score(0.0), None, None], False) == []


def test_a_seat_that_wins_everything() -> None:
    noise = [0.1, -0.1, 0.05, -0.05, 0.0, 0.1, -0.1, 0.0]
    fair = rounds(returns=lambda at: {"a": noise[at], "b": -noise[at]})
    tilted = rounds(returns=lambda at: {"a": 0.8 + noise[at], "b": -0.8 - noise[at]})
    assert said(tilted, zero_sum=True, first=fair) == ["the first seat earns 0.8, and earned 0"]
    assert said(fair, zero_sum=True, first=fair) == [] == said(tilted, first=fair)


def test_fair_seats_rarely_raise_an_alarm_however_few_the_rounds() -> None:
    """An alarm of 3 standard errors: by luck in at most 4 % of the iterations, with two rounds as with many."""
    draw = Random(5)

    def fair(count: int) -> list[dict[str, Any]]:
        return [{"returns": {"a": (luck := draw.gauss(0, 1)), "b": -luck}} for _ in range(count)]

    for count in (2, 3, 10):
        assert sum(bool(said(fair(count), zero_sum=True, first=fair(count))) for _ in range(1000)) < 40


# --- where iterations begin ---


def test_a_line_of_descent_leaves_out_what_was_rolled_away() -> None:
    line = Lineage()
    assert line.ancestors("main", 0) == [0] and line.ancestors("main", 3) == [0, 1, 2, 3]
    line.begin("main", 5, 2)  # 3 and 4 are rolled away
    line.begin("main", 7, 6)
    line.begin("spy", 4, 0)  # restarts
    assert line.ancestors("main", 7) == [0, 1, 2, 5, 6, 7] and line.ancestors("main", 4) == [0, 1, 2, 3, 4]
    assert line.ancestors("spy", 6) == [0, 4, 5, 6] and line.parent("spy", 4) == 0 and line.parent("spy", 5) == 4


def test_a_magnet_is_never_a_snapshot_that_was_rolled_away() -> None:
    for seed in range(200):
        draw, line, every = Random(seed), Lineage(), Random(seed).randint(1, 4)
        held = {0: 0}  # iteration -> the magnet that its learner had in mind at its end, by hand
        for number in range(1, 12):
            parent = number - 1
            if draw.random() < 0.3:
                line.begin("main", number, parent := draw.randrange(number))
            last = (number - 1) // every * every
            held[number] = parent if parent <= last else held[parent]
            assert line.magnet("main", number, every) == held[number] in line.ancestors("main", number)
            assert held[number] <= last
    plain = Lineage()
    assert [plain.magnet("main", number, 3) for number in range(1, 8)] == [0, 0, 0, 3, 3, 3, 6]


# --- at work ---

SMALL = [
    "rounds=2", "play.scenarios=4", "play.group=2", "eval.scenarios=6", "eval.greedy=1", "seed=3", "eval.validation=6",
    "eval.transcripts=1", "eval.opponents=[]", "learner.epochs=1", "learner.schedule=constant", "learner.carry=true",
    "learner.batch_utterances=100000", "play.sampling.temperature=1.0", "+imitate.learner.carry=false",
]  # fmt: skip
LEAGUE = [
    "game=kuhn", "iterations=2", "objective=grpo", "objective.credit.baseline=ema", "objective.credit.by=[seat]",
    "objective.credit.scale=none", "reference=previous", "model.width=32", "model.heads=2", "model.layers=1",
    "model.mlp=64", "imitate.players=[loose]", "imitate.matches=200", "imitate.validation=0",
    "imitate.learner.batch_utterances=16", "learner.optimizer.lr=0.1", "metric=sampled.invalid_rate",
    "play.sampling.max_tokens=6", "eval.sampling.max_tokens=6", "league=pfsp", "league.scenarios=2",
    "league.resamples=0", "keep=1", "guards=online", "guards.entropy=[0.0,1e-9]",
]  # fmt: skip


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*SMALL, *words])


@pytest.mark.slow
def test_a_forced_alarm_rolls_back_at_half_the_rate_in_a_league_too(tmp_path: Path) -> None:
    """The first iteration is the best by its metric, the share of illegal replies, which a rate of 0.1 raises. It has
    an alarm, so that the second begins at the start, with a new running mean. Its copy stays what it was."""
    run = tmp_path / "run"
    training.selfplay(config(*LEAGUE), run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"] == 1 and not summary["iterations"][0].get("alarms")
    assert all(any("nats a token" in text for text in row["alarms"]) for row in summary["iterations"][1:])
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [(row["round"], row["iteration"]) for row in rows] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert all(row["policy"] == "learner" and row["returns"].keys() == {"first", "second"} for row in rows)
    assert all(0 < row["entropy"] < 10 and row["mismatch"] < 1e-6 for row in rows)
    assert "nats a token" in (run / "report/index.html").read_text()

    curves = [json.loads((run / f"iter_00{at}/learn/learner/learn.json").read_text())["metrics"] for at in (1, 2)]
    assert [each["curve"][0]["lr"] for each in curves] == [0.1, 0.05]
    start, first, second = (row["policies"]["learner"]["snapshot"] for row in summary["iterations"])
    credit, state = Advantage(baseline="ema", by=["seat"], zeros=True), None
    for number, version in ((1, start), (2, f"{start}+r1")):
        matches = Matches(run / f"iter_002/play/r00{number}")
        seated = {(name, each.policies[seat]) for each in matches for seat, name in each.players.items()}
        assert {("learner", version), ("learner@1", first)} <= seated
        state = credit(matches, "learner", state=state).state
    learned = json.loads((run / "iter_002/learn/stage.json").read_text())["outputs"]["learner"]
    assert learned["state"] == pytest.approx(state)
    assert len({start, first, second}) == 3 and (run / "league/learner@1~learner@2/stage.json").exists()


def test_a_slower_recipe_changes_rates_alone(tmp_path: Path) -> None:
    recipe = build(config(), tmp_path).policies["learner"].recipe(1)
    assert recipe.slowed(1.0) is recipe
    slow: Any = recipe.slowed(0.5)
    assert slow.learner.optimizer == AdamW(lr=5e-4) and slow.nodes["learner"]["optimizer"]["lr"] == 5e-4
    assert slow.nodes["learner"]["epochs"] == recipe.nodes["learner"]["epochs"] and slow.credit is recipe.credit
    muon = config("learner.optimizer._target_=parley.learners.optim.Muon", "+learner.optimizer.adamw_lr=0.01")
    twice: Any = build(muon, tmp_path).policies["learner"].recipe(1).slowed(0.25)
    assert twice.learner.optimizer == Muon(lr=2.5e-4, adamw_lr=0.0025)
