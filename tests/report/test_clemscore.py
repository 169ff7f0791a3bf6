"""The clemscore's interval, against slow obvious references."""

import json
from collections import defaultdict
from math import isinf, sqrt
from random import Random
from statistics import fmean, stdev

import pytest
from parley.report.clemscore import clemscore, clemscores
from parley.report.estimates import Column, t_quantile


def drawn(random, games=("a", "b", "c"), instances=12, matches=3):
    """(game, instance, played, quality) of matches whose instances differ."""
    rows = []
    for number, game in enumerate(games):
        for instance in range(instances):
            easy, worth = random.betavariate(2, 1), random.gauss(40 + 15 * number, 10)
            for _ in range(matches):
                played = random.random() < easy
                rows.append((game, instance, float(played), random.gauss(worth, 5) if played else None))
    return rows


def columns(rows):
    found, numbers = defaultdict(Column), {}
    for game, instance, played, quality in rows:
        cluster = numbers.setdefault((game, instance), len(numbers))
        found[f"{game}.main_score"].add(quality or 0.0, cluster)
        found[f"{game}.played_rate"].add(played, cluster)
        if quality is not None:
            found[f"{game}.quality"].add(quality, cluster)
    return found


def slow(rows, weights=None):
    """The clemscore from its definition, each instance counted as often as `weights` says."""
    shares, worths = [], []
    for game in sorted({row[0] for row in rows}):
        own = [(weights[game, row[1]] if weights else 1.0, *row) for row in rows if row[0] == game]
        shares.append(sum(w * row[2] for w, *row in own) / sum(w for w, *_ in own))
        played = [(w, row[3]) for w, *row in own if row[3] is not None]
        if played:
            worths.append(sum(w * quality for w, quality in played) / sum(w for w, _ in played))
    return fmean(shares) * fmean(worths)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_numeric_derivatives(seed):
    rows = drawn(Random(seed), instances=5 + seed)
    keys = sorted({row[:2] for row in rows})
    variance = 0.0
    for game in ("a", "b", "c"):
        own = [key for key in keys if key[0] == game]
        weighed = dict.fromkeys(keys, 1.0)
        slopes = [(slow(rows, weighed | {key: 1 + 1e-5}) - slow(rows, weighed | {key: 1 - 1e-5})) / 2e-5 for key in own]
        variance += len(own) / (len(own) - 1) * sum(slope**2 for slope in slopes)
    found = clemscores(columns(rows))["clemscore"]
    half = t_quantile(len(keys) - 3) * sqrt(variance)
    assert found.mean == pytest.approx(slow(rows))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-5)
    assert (found.n, found.clusters) == (len(rows), len(keys))


def test_the_interval_is_as_wide_as_a_bootstrap_of_instances_says():
    random = Random(1)
    rows = drawn(random, instances=40)
    scores = []
    for _ in range(400):
        weights = defaultdict(int)
        for game in ("a", "b", "c"):
            for instance in random.choices(range(40), k=40):
                weights[game, instance] += 1
        scores.append(slow(rows, weights))
    found = clemscores(columns(rows))["clemscore"]
    assert found.high - found.mean == pytest.approx(1.98 * stdev(scores), rel=0.12)


def test_what_has_no_clemscore_and_what_has_no_interval():
    played, quality = Column(), Column()
    played.add(1.0, 0)
    quality.add(50.0, 0)
    only = clemscore({"a": played}, {"a": quality})
    assert only.mean == 50.0 and isinf(only.low) and json.loads(json.dumps(only.to_json()))["low"] is None
    with pytest.raises(ValueError, match="no match was played to its end"):
        clemscore({"a": played}, {})
    assert clemscores({"played_rate": played}) == {} == clemscores({"reward": played, "quality": quality})
    assert clemscores({"main_score": quality, "played_rate": played}) == {}


def test_a_game_that_nobody_plays_to_its_end_counts_among_the_played_only():
    rows = drawn(Random(3), ("a", "b")) + [("c", instance, 0.0, None) for instance in range(4)]
    assert clemscores(columns(rows))["clemscore"].mean == pytest.approx(slow(rows))


def test_games_that_a_suite_does_not_train_on_have_a_clemscore_of_their_own():
    rows = drawn(Random(4), ("a", "b", "unseen.c"))
    found = clemscores(columns(rows))
    assert found["clemscore"] == clemscores(columns([row for row in rows if row[0] in "ab"]))["clemscore"]
    assert found["unseen.clemscore"].mean == pytest.approx(slow([row for row in rows if row[0] == "unseen.c"]))
