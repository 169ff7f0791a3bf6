"""Contexts, their oracles and splits, against slow references and the published file."""

import os
from itertools import product
from pathlib import Path
from statistics import mean

import pytest
from parley.games.deal import Context, Deal, oracle
from parley.games.deal.contexts import allocations, generate, points, published_counts, read, rest

SELFPLAY = Path(os.environ.get("PARLEY_DATA", "")) / "deal_or_no_deal" / "selfplay.txt"
published = pytest.mark.skipif(
    "PARLEY_DATA" not in os.environ or not SELFPLAY.exists(),
    reason="no selfplay.txt: set PARLEY_DATA to a folder with deal_or_no_deal/",
)

ALL = list(generate())
MADE_UP = Context((2, 1, 2), ((1, 4, 2), (0, 6, 2)))


def test_all_contexts_of_the_constraints():
    assert len(ALL) == len(set(ALL)) == 5295
    counts = {context.counts for context in ALL}
    assert len(counts) == 28 and {sum(c) for c in counts} == {5, 6, 7}
    assert len({c for c in counts if published_counts(c)}) == 20
    for context in ALL:
        assert all(1 <= count <= 4 for count in context.counts)
        for values in context.values:
            assert points(values, context.counts) == 10 and min(values) >= 0
        assert all(a + b > 0 for a, b in zip(*context.values, strict=True)) and any(
            a * b > 0 for a, b in zip(*context.values, strict=True)
        )
    assert round(mean(oracle(context).joint_max for context in ALL), 2) == 15.06


def test_oracle_by_hand():
    best = oracle(MADE_UP)
    # first gets both books and one ball (4), second the hat and a ball (8): 12; hat to the second and the rest to the
    # first: 6 + 6
    assert best.joint_max == 12 and len(best.outcomes) == 3 * 2 * 3
    assert (
        (2, 10) in best.frontier
        and (10, 0) in best.frontier
        and (8, 0) not in best.frontier
        and (0, 10) not in best.frontier
    )
    assert best.nash == (6.0, 6.0)


@pytest.mark.parametrize("context", ALL[::97], ids=lambda context: context.scenario().id)
def test_oracle_against_the_definition(context):
    pairs = []
    for share in product(*(range(count + 1) for count in context.counts)):
        left = [count - taken for count, taken in zip(context.counts, share, strict=True)]
        pairs.append(
            tuple(
                sum(v * s for v, s in zip(values, part, strict=True))
                for values, part in zip(context.values, (share, left), strict=True)
            )
        )
    best = oracle(context)
    assert list(best.outcomes) == pairs and best.joint_max == max(map(sum, pairs))
    for pair in pairs:
        beaten = any(other[0] >= pair[0] and other[1] >= pair[1] and sum(other) > sum(pair) for other in pairs)
        assert (pair in best.frontier) == (not beaten)
    product_max = max(a * b for a, b in pairs)
    ties = {pair for pair in pairs if pair[0] * pair[1] == product_max}
    assert best.nash == pytest.approx((mean(a for a, _ in ties), mean(b for _, b in ties)))


def test_allocations_and_rest():
    assert len(allocations((1, 3, 1))) == 2 * 4 * 2
    assert all(min(rest((1, 3, 1), share)) >= 0 for share in allocations((1, 3, 1)))


def test_scenarios_carry_the_context_and_share_a_cluster_with_their_mirror():
    scenario, mirror = MADE_UP.scenario(), MADE_UP.mirror().scenario()
    assert scenario.id == "deal:2-1-2:1-4-2:0-6-2" and mirror.id == "deal:2-1-2:0-6-2:1-4-2"
    assert scenario.cluster == mirror.cluster and Context.of(mirror).mirror() == MADE_UP
    assert scenario.data == {"counts": [2, 1, 2], "values": [[1, 4, 2], [0, 6, 2]]}


@pytest.mark.parametrize("counts", ["all", "published"])
def test_splits_are_by_unordered_pair(counts):
    game = Deal(counts=counts)
    splits = {split: game.scenarios(split) for split in ("train", "validation", "test")}
    clusters = {split: {scenario.cluster for scenario in found} for split, found in splits.items()}
    assert not clusters["train"] & clusters["test"] and not clusters["train"] & clusters["validation"]
    assert not clusters["validation"] & clusters["test"]
    total = sum(map(len, splits.values()))
    assert total == (5295 if counts == "all" else 4800)
    assert (
        all(0.08 < len(splits[split]) / total < 0.12 for split in ("validation", "test")) and len(splits["test"]) >= 256
    )
    present = {scenario.id for found in splits.values() for scenario in found}
    assert all(
        Context.of(scenario).mirror().scenario().id in present for found in splits.values() for scenario in found
    )


def test_split_seed_decides_and_counts_do_not_move_a_pair():
    held_out = {scenario.id for scenario in Deal().scenarios("test")}
    assert held_out == {scenario.id for scenario in Deal(payoff="self").scenarios("test")}
    assert held_out != {scenario.id for scenario in Deal(split_seed=1).scenarios("test")}
    assert {scenario.id for scenario in Deal(counts="published").scenarios("test")} < held_out
    assert (
        len({Context.of(scenario).counts for scenario in Deal().scenarios("test")[:100]}) > 20
    )  # shuffled, not sorted


@pytest.mark.parametrize("seed", range(5))
def test_enough_is_held_out_for_any_split_seed(seed):
    assert all(len(Deal(split_seed=seed).scenarios(split)) >= 256 for split in ("validation", "test"))


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'dev', expected one of train, validation, test"):
        Deal().scenarios("dev")


BAD_FILES = {
    "2 1 1 4 2 2\n": "1 lines, expected an even number",
    "": "0 lines, expected an even number",
    "2 1 1 4 2 2\n2 0 1 6 2\n": "line 2: '2 0 1 6 2', expected six integers",
    "2 1 1 4 2 2\n2 0 1 six 2 2\n": "line 2: '2 0 1 six 2 2', expected six integers",
    "2 -1 1 4 2 2\n2 0 1 6 2 2\n": "line 1: .*expected six integers",
    "2 1 1 4 2 2\n2 0 1 6 2 2\n2 1 1 4 2 2\n1 0 1 6 2 2\n": r"line 4: counts are \[1, 1, 2\], on the line before \[2, "
    r"1, 2\]",
    "2 1 1 4 2 2\n2 1 1 6 2 2\n": "line 2: all items are worth 12 to player 1",
    "0 1 1 4 2 3\n0 1 1 4 2 3\n": r"line 2: counts are \[0, 1, 2\], expected 1 to 10",
    "2 0 1 10 2 0\n2 5 1 0 2 0\n": "line 2: an item is worth nothing to both",
    "2 0 1 10 2 0\n2 4 1 0 2 1\n": "line 2: no item is worth something to both",
}


@pytest.mark.parametrize("text", BAD_FILES, ids=BAD_FILES.values())
def test_a_bad_file_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "contexts.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD_FILES[text]):
        read(path)
    with pytest.raises(ValueError, match=r"contexts\.txt"):
        Deal(contexts=str(path))


def test_a_small_file_says_which_split_is_empty(tmp_path):
    path = tmp_path / "contexts.txt"
    path.write_text("2 1 1 4 2 2\n2 0 1 6 2 2\n")
    game = Deal(contexts=str(path))
    sizes = {}
    for split in ("train", "validation", "test"):
        try:
            sizes[split] = {scenario.id for scenario in game.scenarios(split)}
        except ValueError as error:
            assert f"nothing falls into the split '{split}'" in str(error)
    assert list(sizes.values()) == [{"deal:2-1-2:1-4-2:0-6-2", "deal:2-1-2:0-6-2:1-4-2"}]


@published
def test_published_file_has_the_measured_statistics():
    contexts = read(SELFPLAY)
    assert len(contexts) == len(set(contexts)) == 4086  # the last pair too: the original never drew it
    totals = [sum(context.counts) for context in contexts]
    assert [totals.count(total) for total in (5, 6, 7)] == [2134, 1718, 234]
    assert {context.counts for context in contexts} == {
        context.counts for context in ALL if published_counts(context.counts)
    }
    assert set(contexts) < set(ALL)
    best = [oracle(context) for context in contexts]
    assert round(mean(b.joint_max for b in best), 2) == 15.01 and {b.joint_max for b in best} == set(range(10, 20))
    assert mean(mean(b.nash) for b in best) == pytest.approx(7.48, abs=0.01)
    assert min(len(b.outcomes) for b in best) == 16 and max(len(b.outcomes) for b in best) == 32
    assert round(mean(len(b.frontier) for b in best), 1) == 4.4
    assert round(mean(sum(pair in b.frontier for pair in b.outcomes) / len(b.outcomes) for b in best), 3) == 0.239
    assert mean(mean(map(sum, b.outcomes)) for b in best) / 2 == pytest.approx(5.0)


@published
def test_published_contexts_are_played_with_both_openers():
    game = Deal(contexts=str(SELFPLAY), counts="published")
    found = [scenario for split in ("train", "validation", "test") for scenario in game.scenarios(split)]
    assert (
        len(found) == len({scenario.id for scenario in found}) == 4343
    )  # 2 x 2215 unordered pairs - 87 that are their own mirror
    assert len(game.scenarios("test")) >= 256
    assert {scenario.id for scenario in game.scenarios("test")} < {scenario.id for scenario in Deal().scenarios("test")}
