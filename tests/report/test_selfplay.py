"""Figures of lm-selfplay's logs: what its analysis gives, counted here the long way."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from parley.cli.tasks.statistics import statistics
from parley.data.formats import lm_selfplay
from parley.data.formats.lm_selfplay import Record
from parley.games.base import Message
from parley.report import selfplay
from parley.run.config import ConfigError

CHATS = ((Message("system", "x"), Message("assistant", "[message] hi")),) * 2
ABORTED = ((Message("system", "x"), Message("assistant", "[ABORT]")),) * 2


def rounds(seed: int) -> list[Record]:
    """Games of every kind of end, drawn."""
    draw, games = random.Random(seed), []
    for number in range(12):
        counts, one, other = ((draw.randint(0, 3), draw.randint(0, 3), draw.randint(0, 3)) for _ in range(3))
        mine = (draw.randint(0, counts[0]), draw.randint(0, counts[1]), draw.randint(0, counts[2]))
        theirs = (counts[0] - mine[0], counts[1] - mine[1], counts[2] - mine[2])
        deal = draw.random() < 0.7
        worth = tuple(sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((one, mine), (other, theirs)))
        games.append(Record(
            f"{number:03d}", counts, (one, other), (mine, theirs) if deal else (None, None),
            (worth[0], worth[1]) if deal else (0, 0), deal, draw.randint(2, 9), draw.randint(9, 99),
            CHATS if deal or draw.random() < 0.5 else ABORTED,
        ))  # fmt: skip
    return games


def slow_pareto(game: Record, weight: int) -> bool:
    def scored(mine: tuple[int, ...]) -> tuple[int, int]:
        one = sum(count * value for count, value in zip(mine, game.values[0], strict=True))
        other = sum(
            (have - count) * value for have, count, value in zip(game.counts, mine, game.values[1], strict=True)
        )
        return one + weight * other, other + weight * one

    reached = scored(game.allocations[0]) if game.allocations[0] else (0, 0)
    for mine in product(*(range(count + 1) for count in game.counts)):
        split = scored(mine)
        if split[0] >= reached[0] and split[1] >= reached[1] and split != reached:
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_figures_equal_the_long_way(seed):
    games = rounds(seed)
    scores = sorted(score for game in games for score in game.scores)
    average = sum(scores) / 24
    deals = [game for game in games if game.is_valid_deal]
    for objective, weight in (("self", 0), ("coop", 1), ("comp", -1)):
        found = selfplay.figures(games, objective)
        assert found["total_mean"] == pytest.approx(average)
        assert found["total_median"] == (scores[11] + scores[12]) / 2
        assert found["total_length_in_msgs"] == pytest.approx(sum(game.message_count for game in games) / 12)
        assert found["abort_rate"] == pytest.approx(sum(game.chats is ABORTED for game in games) / 12)
        assert found["proportion_agreement"] == pytest.approx(len(deals) / 12)
        assert found["agreement_length_in_tkns"] == pytest.approx(sum(g.token_count for g in deals) / len(deals))
        assert found["agreement_mean"] == pytest.approx(sum(map(sum, (g.scores for g in deals))) / 2 / len(deals))
        above = [score for score in scores if score > average]
        assert found["above_avg_mean"] == pytest.approx(sum(above) / len(above))
        assert found["proportion_above_avg"] == len(above) / 24
        assert found["proportion_pareto_opt"] == pytest.approx(sum(slow_pareto(game, weight) for game in games) / 12)


def test_figures_of_nothing_are_left_out():
    games = [replace(game, scores=(0, 0), is_valid_deal=False, allocations=(None, None)) for game in rounds(0)]
    found = selfplay.figures(games)
    assert "agreement_mean" not in found and "above_avg_mean" not in found and found["total_mean"] == 0


def test_the_task_tells_folders_as_iterations(tmp_path):
    for number in (0, 1):
        write(tmp_path / str(number), rounds(number))
    names = [str(tmp_path / str(number)) for number in (0, 1)]
    statistics(None, tmp_path / "out", names, "self")  # type: ignore[arg-type]
    told = list(csv.DictReader((tmp_path / "out/statistics.csv").read_text().splitlines()))
    assert [(row["iteration"], row["logs"]) for row in told] == [("0", names[0]), ("1", names[1])]
    for number, row in enumerate(told):
        for key, value in selfplay.figures(rounds(number)).items():
            assert float(row[key]) == pytest.approx(value), key
    with pytest.raises(ConfigError, match="expected a folder of lm-selfplay logs"):
        statistics(None, tmp_path / "out", [str(tmp_path)], "self")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name the folders"):
        statistics(None, tmp_path / "out", [], "self")  # type: ignore[arg-type]


def write(folder: Path, games: list[Record]) -> None:
    (folder / "results").mkdir(parents=True)
    (folder / "json_logs").mkdir()
    named = lm_selfplay.ITEMS
    for game in games:
        both = enumerate(game.allocations)
        data = {
            "counts": dict(zip(named, game.counts, strict=True)),
            **{f"p{at}_values": dict(zip(named, game.values[at], strict=True)) for at in (0, 1)},
            **{f"p{at}_allocation": share and dict(zip(named, share, strict=True)) for at, share in both},
            **{f"p{at}_score": game.scores[at] for at in (0, 1)},
            "is_valid_deal": game.is_valid_deal, "message_count": game.message_count, "token_count": game.token_count,
        }  # fmt: skip
        (folder / f"results/{game.name}.json").write_text(json.dumps(data))
        for at, chat in enumerate(game.chats):
            said = [{"role": message.role, "content": message.content} for message in chat]
            (folder / f"json_logs/{game.name}_p{at}.json").write_text(json.dumps(said))
