"""Agreement of raters: slow references, known values, and the real ratings of Sotopia-π's dialogues."""

from __future__ import annotations

import csv
import json
import os
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from parley.cli.main import check
from parley.report.agreement import Rating, agreement, alpha, inflation, pearson, people, read, spearman
from parley.run.config import ConfigError
from parley.system.files import InputError

REAL = Path(os.environ.get("PARLEY_DATA", "nowhere")) / "human_ratings/ratings.jsonl"


def slow_alpha(units: list[list[float]]) -> float:
    """Pair by pair, as Krippendorff 2011 writes it."""
    units = [unit for unit in units if len(unit) > 1]
    every = [value for unit in units for value in unit]
    n = len(every)
    observed = sum(sum((a - b) ** 2 for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / n
    expected = sum((a - b) ** 2 for a, b in permutations(every, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("seed", range(20))
def test_alpha_equals_its_slow_reference(seed: int) -> None:
    draw = Random(seed)
    units = [[float(draw.randint(0, 5)) for _ in range(draw.randint(1, 4))] for _ in range(30)]
    assert alpha(units) == pytest.approx(slow_alpha(units), abs=1e-12)


def test_alpha_of_full_and_of_no_agreement_and_without_variance() -> None:
    assert alpha([[1, 1], [5, 5], [3, 3]]) == 1.0
    assert alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    assert alpha([[2, 2], [2, 2]]) != alpha([[2, 2], [2, 2]])  # NaN: nothing to disagree about
    assert alpha([[1], [2]]) != 0


def test_krippendorff_s_own_example() -> None:
    """Interval data of Krippendorff 2011, section D: four observers, twelve units, alpha 0.849."""
    units = [
        [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1],
        [2, 2, 2, 2], [5, 5, 5], [1, 1],
    ]  # fmt: skip
    assert alpha(units) == pytest.approx(0.849, abs=5e-4)


def test_correlations() -> None:
    pairs = [(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 30.0)]
    assert pearson([(x, 2 * x + 1) for x, _ in pairs]) == pytest.approx(1) == spearman([(x, x**3) for x, _ in pairs])
    assert spearman(pairs) == pytest.approx(0.8)
    assert spearman([(1, 1), (1, 2), (2, 3)]) == pytest.approx(pearson([(0.5, 0), (0.5, 1), (2, 2)]))


def ratings(seed: int, shift: float) -> list[Rating]:
    """Two people and a judge who rates by `shift` too high, on 60 dialogues of two items."""
    draw, found = Random(seed), []
    for dialogue in range(60):
        for agent in "12":
            true = draw.uniform(0, 8)
            for rater, bias in (("ann", 0.0), ("bob", 0.0), ("robot", shift)):
                found.append(Rating((f"d{dialogue}", agent), rater, {"goal": true + bias + draw.gauss(0, 1)}))
    return found


def test_a_judge_s_inflation_is_found_and_none_where_there_is_none() -> None:
    for shift in (0.0, 1.5):
        found = inflation(ratings(1, shift), "robot", ["robot"], "goal")
        assert found is not None and found.items == 120 and found.excess.clusters == 60
        assert found.excess.low < shift < found.excess.high and found.pearson > 0.8
    agreed = agreement([each for each in ratings(1, 1.5) if each.rater != "robot"], "goal")
    assert agreed.low < agreed.alpha < agreed.high and agreed.n == 240 and agreed.items == 120


@pytest.mark.skipif(not REAL.is_file(), reason="PARLEY_DATA has no human_ratings/")
def test_the_real_ratings_of_people() -> None:
    found = {row["dimension"]: row for row in people(read([REAL]), [], 0)}
    expected = {
        "goal": 0.709, "relationship": 0.464, "believability": 0.265, "financial_and_material_benefits": 0.170,
        "social_rules": 0.133, "secret": -0.006, "knowledge": -0.101,
    }  # fmt: skip
    assert {name: round(row["alpha"], 3) for name, row in found.items()} == expected
    goal = found["goal"]
    assert (goal["n"], goal["items"]) == (604, 294) and round(goal["alpha_binary"], 3) == 0.649
    assert 0.83 <= goal["ppa"] < 0.835 and goal["low"] < 0.709 < goal["high"]
    assert round(found["secret"]["exact"], 2) == 0.98  # nearly always equal, and alpha about 0


ROW = {"episode": "e", "agent": 1, "annotator": "ann", "scores": {"goal": 3, "secret": None}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROW, "scores": {"goal": "3"}}, "the score goal is '3'"), ({**ROW, "scores": {}}, "an object of numbers"),
        ({**ROW, "scores": {"goal": True}}, "the score goal"), ({"episode": "e"}, "lacks the key 'scores'"),
        ([], "line 2"), ({**ROW, "scores": {"goal": float("nan")}}, "the score goal is nan"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, row: object, says: str) -> None:
    (tmp_path / "r.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=r"r.jsonl, line 2: ") as error:
        read([tmp_path / "r.jsonl"])
    assert says in str(error.value)


def test_a_missing_score_is_no_rating_and_a_second_one_of_a_rater_does_not_count(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "scores": {"goal": 9}}, {**ROW, "annotator": "bob", "scores": {"goal": 3}}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read([tmp_path / "r.jsonl"])
    assert [(each.rater, each.scores) for each in found] == [("ann", {"goal": 3.0}), ("bob", {"goal": 3.0})]
    assert [row["dimension"] for row in people(found, [], 0)] == ["goal"]


def test_the_task_writes_both_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf
    from parley.cli.tasks.statistics import agreement as task

    rows = [
        {"episode": each.item[0], "agent": each.item[1], "annotator": each.rater, "scores": dict(each.scores)}
        for each in ratings(2, 1.0)
    ]
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task(OmegaConf.create({"seed": 0}), tmp_path, [str(file)], ["robot"])
    with open(tmp_path / "judges.csv") as text:
        (row,) = csv.DictReader(text)
    assert row["judge"] == "robot" and float(row["excess_low"]) > 0.5
    with open(tmp_path / "agreement.csv") as text:
        assert [each["n"] for each in csv.DictReader(text)] == ["240"]
    check(["task=agreement", "ratings=[a.jsonl]", "task.judges=[robot]"])
    for names, files in ((["nobody"], [str(file)]), ([], []), ([], [str(tmp_path / "none")])):
        with pytest.raises(ConfigError):
            task(OmegaConf.create({"seed": 0}), tmp_path, files, names)
