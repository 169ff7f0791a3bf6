"""Credit on small hand-made matches: published formulas to the digit, provenance, and what is left out."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
from parley.credit import Demonstrated, FilteredBC, NothingKept, SpagCredit, SpinPairs, decayed
from parley.credit.base import logs
from parley.data.episode import Call, Episode, Turn
from parley.data.sample import Sample, Utterance
from parley.games.base import Reply, Result, Scenario
from parley.games.deal import Context, Deal
from parley.system.files import InputError

ME = "iter_001"
published = partial(SpagCredit, form="faithful")


def episode(
    match: str,
    returns: Mapping[str, float],
    speakers: str = "abab",
    scenario: str = "s",
    players: Mapping[str, str] | None = None,
    fork_at: int | None = None,
    **result: Any,
) -> Episode:
    """Seats a and b speak in turn; a token id tells its seat (1xx a, 2xx b), turn and kind (9xx are prompts)."""
    policies = players or dict.fromkeys(returns, ME)
    turns: list[Turn] = []
    last: dict[str, tuple[str, int]] = {}  # seat -> (its last request, the length of its stream)
    for number, seat in enumerate(speakers):
        parent, length = last.get(seat, (None, 0))
        shared, fork = (length, None) if number != fork_at or not parent else (1, "template")
        base = 100 if seat == "a" else 200
        sampled, prompt = (base + 2 * number, base + 2 * number + 1), (900 + number,)
        call = Call(prompt, sampled, (-0.1 * number - 0.01, -0.1 * number - 0.02), policies[seat], parent, shared, fork)
        request = f"{seat}.{number}"
        turns.append(Turn(request, seat, "act", "text", call=None if policies[seat] == "script" else call))
        last[seat] = (request, shared + len(prompt) + len(sampled))
    outcome = result.pop("outcome", "over")
    return Episode(
        match,
        "game",
        1,
        Scenario(scenario, {}),
        0,
        policies,
        policies,
        tuple(turns),
        Result(returns, outcome, **result),
    )


def kept(credited: Any) -> set[tuple[str, str]]:
    return {(verdict.match, verdict.seat) for verdict in credited.table if verdict.kept}


def supervised(samples: Sequence[Sample]) -> list[int]:
    return [
        token for sample in samples for each in sample.utterances for token in sample.token_ids[each.start : each.end]
    ]


ROUND = [
    episode("m1", {"a": 8, "b": 2}, scenario="s1"),
    episode("m2", {"a": 0, "b": 0}, scenario="s1"),
    episode("m3", {"a": 4, "b": 3}, scenario="s2"),
    episode("m4", {"a": 4, "b": 5}, scenario="s2"),
]  # mean over all 8 scores, zeros included: 26 / 8 = 3.25


def test_filter_rules() -> None:
    assert kept(FilteredBC("above_avg")(ROUND, ME)) == {("m1", "a"), ("m3", "a"), ("m4", "a"), ("m4", "b")}
    assert kept(FilteredBC("above_avg", margin=1.0)(ROUND, ME)) == {("m1", "a"), ("m4", "b")}
    assert len(kept(FilteredBC("nonzero")(ROUND, ME))) == 6
    assert len(kept(FilteredBC("all")(ROUND, ME))) == 8


def test_above_group_compares_a_seat_with_itself_on_one_scenario() -> None:
    """a on s1: 8, 0 (mean 4); b on s1: 2, 0 (mean 1); a on s2: 4, 4 (a tie keeps nothing); b on s2: 3, 5 (mean 4)."""
    result = FilteredBC("above_group")(ROUND, ME)
    assert kept(result) == {("m1", "a"), ("m1", "b"), ("m4", "b")}
    assert {(v.seat, v.scenario): v.bar for v in result.table} == {
        ("a", "s1"): 4,
        ("b", "s1"): 1,
        ("a", "s2"): 4,
        ("b", "s2"): 4,
    }


def test_strictly_above_the_bar() -> None:
    with pytest.raises(NothingKept):
        FilteredBC("above_avg")([episode("m1", {"a": 3, "b": 3})], ME)


@pytest.mark.parametrize("keep", ["above_avg", "above_group"])
def test_equal_scores_are_a_tie_whatever_their_rounding(keep: Any) -> None:
    for score in (0.1, 0.7, 1 / 3, 5 / 7):
        for matches in range(1, 9):
            with pytest.raises(NothingKept):
                FilteredBC(keep)([episode(f"m{number}", {"a": score, "b": score}) for number in range(matches)], ME)


def test_scores_as_shares_of_what_the_context_allowed() -> None:
    """8 of 10 is luck of the context, 4 of 4 is skill."""
    matches = [
        episode("m1", {"a": 8, "b": 2}, metrics={"ceiling": {"a": 10.0, "b": 10.0}}),
        episode("m2", {"a": 4, "b": 1}, metrics={"ceiling": {"a": 4.0, "b": 0.0}}),
    ]
    result = FilteredBC("above_avg", normalise_by="ceiling")(matches, ME)
    assert [(v.match, v.seat, v.score) for v in result.table] == [
        ("m1", "a", 0.8),
        ("m1", "b", 0.2),
        ("m2", "a", 1.0),
        ("m2", "b", 0.0),
    ]
    assert kept(result) == {("m1", "a"), ("m2", "a")}
    with pytest.raises(ValueError, match=r"no such metric; it has \['ceiling'\]"):
        FilteredBC(normalise_by="celing")(matches, ME)


@pytest.mark.parametrize("payoff", ["coop", "self"])
def test_shares_of_the_ceiling_on_matches_of_deal(payoff: Any) -> None:
    """The fair script plays 200 contexts; a slow reference finds what each allowed by trying every split."""
    game = Deal(payoff=payoff)
    matches = sorted(
        (negotiated(game, scenario) for scenario in game.scenarios("test")[:200]), key=lambda match: match.id
    )
    best = {match.id: max(map(sum, every_split(match.scenario))) for match in matches}
    shares = [share / best[match.id] for match in matches for share in payoffs(match, payoff)]
    table, plain = (FilteredBC("above_avg", normalise_by=name)(matches, ME).table for name in ("ceiling", None))
    assert [(verdict.match, verdict.seat) for verdict in table] == [
        (match.id, seat) for match in matches for seat in game.roles
    ]
    assert [verdict.score for verdict in table] == pytest.approx(shares)
    assert [verdict.kept for verdict in table] == [share > sum(shares) / len(shares) for share in shares]
    rich = {match for match in best if best[match] >= 16}
    assert luck(table, rich) < luck(plain, rich) - 0.1


def payoffs(match: Episode, payoff: str) -> list[float]:
    """What each seat was after, doubled where it is its own points (against half of the largest sum)."""
    score: Any = match.result.metrics["score"]
    return [sum(score.values())] * 2 if payoff == "coop" else [2 * points for points in score.values()]


def luck(table: Sequence[Any], rich: set[str]) -> float:
    """How much likelier a log of a rich context is to be kept than another one."""
    rates = [[verdict.kept for verdict in table if (verdict.match in rich) == side] for side in (True, False)]
    return sum(rates[0]) / len(rates[0]) - sum(rates[1]) / len(rates[1])


def every_split(scenario: Scenario) -> list[tuple[int, int]]:
    """Both seats' points for every way to share out the items."""
    context = Context.of(scenario)
    found = []
    for share in product(*(range(count + 1) for count in context.counts)):
        mine = sum(n * value for n, value in zip(share, context.values[0], strict=True))
        found.append(
            (
                mine,
                sum(
                    (count - n) * value
                    for count, n, value in zip(context.counts, share, context.values[1], strict=True)
                ),
            )
        )
    return found


def negotiated(game: Deal, scenario: Scenario) -> Episode:
    """A match of the fair script with itself, its replies given tokens as if a model had sampled them."""
    script, draw, match = game.scripts()["fair"], random.Random(scenario.id), game.match(scenario, 0)
    turns: list[Turn] = []
    requests = match.start()
    while requests:
        replies = [Reply(request.id, script(request, draw, draw)) for request in requests]
        turns += [
            Turn(request.id, request.seat, request.kind, reply.text, call=Call((1,), (2, 3), (-0.5, -0.5), ME, None, 0))
            for request, reply in zip(requests, replies, strict=True)
        ]
        requests = match.step(replies)
    policies = dict.fromkeys(game.roles, ME)
    return Episode(scenario.id, game.name, game.version, scenario, 0, policies, policies, tuple(turns), match.result())


def test_strict_competition_keeps_valid_draws() -> None:
    deal, none = {"agreement_rate": 1.0}, {"agreement_rate": 0.0}
    matches = [
        episode("m1", {"a": 3, "b": -3}, metrics=deal),
        episode("m2", {"a": 0, "b": 0}, metrics=deal),
        episode("m3", {"a": 0, "b": 0}, metrics=none),
    ]
    for keep in ("above_avg", "nonzero"):
        assert kept(FilteredBC(keep)(matches, ME)) == {("m1", "a"), ("m2", "a"), ("m2", "b")}
        assert kept(FilteredBC(keep, keep_draws=None)(matches, ME)) == {("m1", "a")}
    coop = [*matches[1:], episode("m4", {"a": 9, "b": 9}, metrics=deal)]  # not zero-sum: a draw is no achievement
    assert kept(FilteredBC("nonzero")(coop, ME)) == {("m4", "a"), ("m4", "b")}


def test_only_the_policy_under_training_is_supervised() -> None:
    """Whoever else sits there, its tokens are never in a span: an older self, a script, whatever the rule."""
    for other in ("iter_000", "script"):
        match = episode("m1", {"a": 1, "b": 9}, players={"a": ME, "b": other})
        credited = FilteredBC("all")([match], ME)
        assert supervised(credited.samples) == [100, 101, 104, 105]
        assert kept(credited) == {("m1", "a")}
    (sample,) = credited.samples
    assert sample.token_ids == (900, 100, 101, 902, 104, 105)
    assert [(each.start, each.end) for each in sample.utterances] == [(1, 3), (4, 6)]
    assert sample.logprobs == pytest.approx((-0.01, -0.02, -0.21, -0.22))
    assert (sample.id, sample.policy) == ("m1/a/0", ME)


def test_a_reply_of_another_version_in_the_seat_is_context() -> None:
    match = episode("m1", {"a": 1, "b": 1})
    assert match.turns[0].call is not None
    old = Turn("a.0", "a", "act", "text", call=Call((900,), (100, 101), (-0.01, -0.02), "iter_000"))
    mixed = replace(match, turns=(old, *match.turns[1:]))
    (mine, _) = FilteredBC("all")([mixed], ME).samples
    assert supervised([mine]) == [104, 105]
    assert mine.logprobs == pytest.approx((-0.21, -0.22))


@pytest.mark.parametrize(
    "credit", [FilteredBC("all"), published(), SpinPairs()], ids=lambda credit: type(credit).__name__
)
def test_a_frozen_opponent_of_the_very_same_version_is_not_trained(credit: Any) -> None:
    """In the first iteration the start sits opposite the learner with the same weights: seats count by who sits in
    them."""
    real = Sample("s", (900, 7, 8), (Utterance(1, 3),))
    for learner, token in (("a", 100), ("b", 200)):
        other = "b" if learner == "a" else "a"
        both = episode("m1", {"a": 1, "b": 1}, learner + other, outcome_by_seat={learner: "win", other: "loss"})
        match = replace(both, players={learner: "learner", other: "start"})
        generated = [sample for sample in credit([match], "learner", [real]).samples if sample.policy]
        assert supervised(generated) == [token, token + 1] and {sample.policy for sample in generated} == {ME}
        with pytest.raises(NothingKept, match="no seat was played by the policy under training"):
            credit([match], ME, [real])  # a version is no name


def test_forked_streams_supervise_each_reply_once() -> None:
    for fork_at in range(6):
        match = episode("m1", {"a": 1, "b": 1}, "ababab", fork_at=fork_at)
        credited = FilteredBC("all")([match], ME)
        tokens = supervised(credited.samples)
        assert sorted(tokens) == [100, 101, 104, 105, 108, 109, 202, 203, 206, 207, 210, 211]
        assert len(credited.samples) == (2 if fork_at < 2 else 3)  # a first request has nothing to fork from
        for sample in credited.samples:
            assert sample.logprobs is not None and len(sample.logprobs) == len(supervised([sample]))
            for token, logprob in zip(supervised([sample]), sample.logprobs, strict=True):
                assert logprob == pytest.approx(-0.1 * (token % 100 // 2) - 0.01 * (1 + token % 2))


@pytest.mark.parametrize("keep", ["above_avg", "nonzero", "all", "above_group"])
def test_illegal_replies_are_never_trained_on(keep: Any) -> None:
    """a.0 was answered by a retry; b's last reply ended the match."""
    matches = [
        episode("m1", {"a": 5, "b": 5}, marks={"a.0": {"retry": "no tag"}, "b.1": {"note": "forced"}}, blame=("b",)),
        episode("m2", {"a": 0, "b": 0}),
    ]
    credited = FilteredBC(keep)(matches, ME)
    first = [sample for sample in credited.samples if sample.id.startswith("m1")]
    assert supervised(first) == [104, 105, 202, 203]
    assert first[0].token_ids[:3] == (900, 100, 101)  # the model saw its own mistake: it stays as context
    assert first[0].logprobs == pytest.approx((-0.21, -0.22))


def test_rewards_of_filtered_logs() -> None:
    matches = [episode("m1", {"a": 8, "b": 2}, "ababa")]
    wanted: dict[Any, list[float]] = {"score": [8, 8, 8], "one": [1, 1, 1], "shared": [0.262, 0.328, 0.410]}
    for reward, values in wanted.items():
        utterances = FilteredBC("above_avg", reward=reward)(matches, ME).samples[0].utterances
        assert [each.reward for each in utterances] == pytest.approx(values, abs=5e-4) and {
            each.weight for each in utterances
        } == {1.0}


def test_the_samples_do_not_depend_on_the_order_of_the_matches() -> None:
    for seed in range(5):
        mixed = random.Random(seed).sample(ROUND, len(ROUND))
        assert FilteredBC("all")(mixed, ME) == FilteredBC("all")(ROUND, ME)
    assert [sample.id for sample in FilteredBC("all")(ROUND, ME).samples][:3] == ["m1/a/0", "m1/b/0", "m2/a/0"]


def test_nothing_kept_stops_with_the_table_of_scores() -> None:
    matches = [episode(f"m{number:02d}", {"a": 0, "b": 0}) for number in range(15)]
    with pytest.raises(NothingKept) as error:
        FilteredBC("nonzero")(matches, ME)
    text = str(error.value)
    assert "0 of 30 logs kept" in text and "30 not above the bar (nonzero)" in text
    assert "   0.0000    0.0000  m00, a: not above the bar (nonzero)" in text and "… and 27 more" in text
    with pytest.raises(NothingKept, match="no seat was played by the policy under training"):
        FilteredBC("all")(matches, "iter_007")


def test_server_without_logprobs_gives_samples_without() -> None:
    match = episode("m1", {"a": 1}, "a")
    call = Call((900,), (100, 101), (), ME)
    bare = replace(match, turns=(Turn("a.0", "a", "act", "x", call=call),))
    (sample,) = FilteredBC("all")([bare], ME).samples
    assert sample.logprobs is None and supervised([sample]) == [100, 101]


# --- SPAG ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares",
    [[1.000], [0.444, 0.556], [0.262, 0.328, 0.410], [0.173, 0.217, 0.271, 0.339], [0.122, 0.152, 0.190, 0.238, 0.298]],
)
def test_decayed_rewards_as_published(shares: list[float]) -> None:
    """The published table for gamma = 0.8, whose last entry (.29748) is rounded so that the row sums to 1."""
    assert decayed(len(shares), 0.8) == pytest.approx(shares, abs=5.3e-4)
    assert sum(decayed(len(shares), 0.8)) == pytest.approx(1.0)
    assert decayed(4, 1.0) == [0.25] * 4


def taboo(match: str, winner: str | None, speakers: str = "abab", breaker: str | None = None) -> Episode:
    """a attacks, b defends. A rule break names who is to blame; the other's word is void, as it did not earn a win."""
    words = {"a": "tie", "b": "tie"} if winner is None else {seat: "win" if seat == winner else "loss" for seat in "ab"}
    words |= {} if breaker is None else {seat: "loss" if seat == breaker else "void" for seat in "ab"}
    returns = {seat: {"win": 1.0, "loss": -1.0}.get(word, 0.0) for seat, word in words.items()}
    return episode(match, returns, speakers, outcome_by_seat=words, blame=(breaker,) if breaker else ())


def test_a_game_that_says_nothing_of_an_honest_seat_leaves_it_void() -> None:
    """Whoever is to blame may be punished; without blame the game has to say how a seat fared."""
    match = episode("m1", {"a": -1.0, "b": 0.0}, blame=("a",))
    told = {verdict.seat: verdict.why for verdict in SpagCredit()([match], ME).table}
    assert told == {"a": "break", "b": "void, left out"}
    with pytest.raises(InputError, match="outcome_by_seat has no entry for 'a'"):
        SpagCredit()([episode("m1", {"a": -1.0, "b": 0.0})], ME)


GAMES = [
    taboo("m1", "a"),
    taboo("m2", "a", "ab"),
    taboo("m3", "a", "ababab"),
    taboo("m4", "b"),
    taboo("m5", None),
    taboo("m6", "b", "aba", "a"),
]


def numbers(samples: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    return {sample.id: [(each.reward, each.weight) for each in sample.utterances] for sample in samples}


def test_corrected_credit_punishes_who_loses_or_breaks_the_rules() -> None:
    """Each reply has its match's total less the mean of its seat and turn. a: win, win, win, loss, tie, break: of 1 1 1
    -1 0 -1 the mean is 1/6 in turn 1, of 1 1 -1 0 -1 (m2 is over) 0, then 1 alone. b: -1 -1 -1 1 0, without the void:
    -2/5, -1 -1 1 0: -1/4."""
    credit = SpagCredit(role_weights=False)
    rows = {name: [reward for reward, _ in values] for name, values in numbers(credit(GAMES, ME).samples).items()}
    wanted = {
        "m1/a/0": [5 / 6, 1.0], "m2/a/0": [5 / 6], "m3/a/0": [5 / 6, 1.0, 0.0], "m4/a/0": [-7 / 6, -1.0],
        "m5/a/0": [-1 / 6, 0.0],
        "m6/a/0": [-7 / 6, -1.0], "m1/b/0": [-0.6, -0.75], "m2/b/0": [-0.6], "m3/b/0": [-0.6, -0.75, 0.0],
        "m4/b/0": [1.4, 1.25],
        "m5/b/0": [0.4, 0.25],
    }  # fmt: skip
    assert rows == {name: pytest.approx(values) for name, values in wanted.items()}
    assert SpagCredit() == published(
        gamma=1.0, spread="whole", losers=-1.0, breakers=-1.0, baseline="turn", form="corrected"
    )
    assert published(losers=-0.5).breakers == 0.0
    with pytest.raises(ValueError, match="expected corrected or faithful"):
        SpagCredit(form="published")


def test_the_baseline_of_a_turn_leaves_nothing_over() -> None:
    """Whatever the matches, the rewards of a seat's replies of one turn sum to 0; and gamma discounts them before."""
    for seed in range(20):
        draw = random.Random(seed)
        games = [taboo(f"m{n}", draw.choice(["a", "a", "b", None]), "ab" * draw.randint(1, 5)) for n in range(30)]
        credit = SpagCredit(role_weights=False, losers=0.0, gamma=draw.choice([1.0, 0.8]))
        turns: dict[tuple[str, int], list[float]] = defaultdict(list)
        for name, values in numbers(credit(games, ME).samples).items():
            for at, (reward, _) in enumerate(values):
                turns[name.split("/")[1], at].append(reward)
        assert all(sum(rewards) == pytest.approx(0.0, abs=1e-9) for rewards in turns.values())
    first, last = (reward for reward, _ in numbers(published(spread="whole")([taboo("m1", "a")], ME).samples)["m1/a/0"])
    assert (first, last) == pytest.approx((0.8, 1.0))


def test_a_win_that_was_waited_for_is_worth_as_much() -> None:
    """b wins half of its matches in its 1st turn, and of those in which it waits three in four in its 3rd: waiting is
    what pays."""
    early = [taboo(f"e{n}", "b" if n % 2 else "a", "ab") for n in range(8)]
    late = [taboo(f"l{n}", "b" if n % 4 else "a", "ababab") for n in range(8)]
    for credit, sign in ((SpagCredit(losers=0.0), 1), (published(), -1)):
        rows = numbers(credit([*early, *late], ME).samples)
        wait, guess = (sum(rows[name][0][0] for name in rows if name[0] == kind and "/b/" in name) for kind in "le")
        assert (wait - guess) * sign > 0


def test_spag_as_published() -> None:
    """N = 4 decided games, 3 won by a and 1 by b: weights 4 / (2 * 3) and 4 / (2 * 1). Typed by hand."""
    credited = published()(GAMES, ME)
    rows = numbers(credited.samples)
    assert sorted(rows) == ["m1/a/0", "m2/a/0", "m3/a/0", "m4/b/0"]
    assert rows["m1/a/0"] == [pytest.approx((4 / 9, 2 / 3)), pytest.approx((5 / 9, 2 / 3))]
    assert rows["m2/a/0"] == [pytest.approx((1.0, 2 / 3))]
    assert rows["m3/a/0"] == [
        pytest.approx((16 / 61, 2 / 3)),
        pytest.approx((20 / 61, 2 / 3)),
        pytest.approx((25 / 61, 2 / 3)),
    ]
    assert rows["m4/b/0"] == [pytest.approx((4 / 9, 2.0)), pytest.approx((5 / 9, 2.0))]
    assert [v.why for v in credited.table if v.match == "m6"] == ["break, left out", "void, left out"]
    assert {
        each.weight for sample in published(role_weights=False)(GAMES, ME).samples for each in sample.utterances
    } == {1.0}


def test_every_role_has_the_same_mass_of_weight_times_reward() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        games = [taboo(f"m{n}", draw.choice(["a", "a", "a", "b", None]), "ab" * draw.randint(1, 5)) for n in range(40)]
        games += [taboo("x1", "a"), taboo("x2", "b")]
        decided = sum(1 for game in games if "win" in game.result.outcome_by_seat.values())
        for losers in (0.0, -0.5):
            mass = {"a": 0.0, "b": 0.0}
            for sample in published(losers=losers)(games, ME).samples:
                mass[sample.id.split("/")[1]] += sum(each.weight * each.reward for each in sample.utterances)
            assert mass == pytest.approx(dict.fromkeys("ab", decided / 2 * (1 + losers)))


def test_losers_and_rule_breakers_can_be_punished() -> None:
    rows = numbers(published(losers=-0.9, breakers=-1.0, role_weights=False)(GAMES, ME).samples)
    assert rows["m1/b/0"] == [pytest.approx((-0.4, 1.0)), pytest.approx((-0.5, 1.0))]
    assert rows["m6/a/0"] == [
        pytest.approx((-4 / 9, 1.0)),
        pytest.approx((-5 / 9, 1.0)),
    ]  # the reply that broke the rules included
    assert "m6/b/0" not in rows and "m5/a/0" not in rows


def test_a_baseline_per_role() -> None:
    """a: win, win, win, loss, tie, break: totals 1 1 1 0 0 -1, mean 1/3. b: 0 0 0 1 0 and a void: mean 1/5."""
    rows = numbers(published(breakers=-1.0, baseline="role", role_weights=False)(GAMES, ME).samples)
    total = {name: sum(reward for reward, _ in values) for name, values in rows.items()}
    assert total == pytest.approx(
        {"m1/a/0": 2 / 3, "m2/a/0": 2 / 3, "m3/a/0": 2 / 3, "m4/a/0": -1 / 3, "m5/a/0": -1 / 3, "m6/a/0": -4 / 3}
        | {"m1/b/0": -0.2, "m2/b/0": -0.2, "m3/b/0": -0.2, "m4/b/0": 0.8, "m5/b/0": -0.2}
    )
    assert sum(total.values()) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="breaking the rules would pay"):
        published(losers=-1.0, baseline="role")


@pytest.mark.parametrize("credit", [published(), FilteredBC()], ids=["spag", "filtered_bc"])
def test_demonstrations_are_mixed_in_as_sft(credit: Any) -> None:
    text = Sample("alpaca/1", (1, 2, 3), (Utterance(1, 3, weight=0.5, kind="partner"),))
    samples = credit(GAMES, ME, [text]).samples
    assert samples[-1] == Sample("alpaca/1", (1, 2, 3), (Utterance(1, 3, weight=0.5, kind="sft"),))
    assert all(each.kind == "act" for sample in samples[:-1] for each in sample.utterances)
    with pytest.raises(NothingKept):  # the mix alone is no self-play
        credit([taboo("m5", None)], ME, [text])


def test_credit_says_how_many_demonstrations_it_wants() -> None:
    assert (FilteredBC().mix, published().mix, SpinPairs().mix) == (0, 0, None)
    assert (FilteredBC(mix=7).mix, published(mix=7).mix) == (7, 7)


def test_spag_needs_outcomes_by_seat() -> None:
    with pytest.raises(ValueError, match="outcome_by_seat has no entry for 'a'"):
        published()(ROUND, ME)


# --- SPIN ----------------------------------------------------------------------------------------------------------


def test_pairs_of_real_and_generated() -> None:
    matches = [episode(f"m{number}", {"a": 0.0}, "a", scenario=f"prompt{number}") for number in range(5)]
    demonstrations = [
        Sample("prompt0", (900, 7, 8, 9), (Utterance(1, 4),)),
        Sample("prompt1", (900, 100, 101), (Utterance(1, 3),)),  # identical
        Sample("prompt2", (901, 7), (Utterance(1, 2),)),  # another prompt
        Sample("prompt3", (900, 8), (Utterance(1, 2),)),
    ]
    credited = SpinPairs()(matches, ME, demonstrations)
    assert [v.why for v in credited.table] == [
        "paired",
        "identical",
        "the prompts differ",
        "paired",
        "no demonstration of this scenario",
    ]
    assert [sample.id for sample in credited.samples] == ["m0/a/real", "m0/a/0", "m3/a/real", "m3/a/0"]
    assert [[each.side for each in sample.utterances] for sample in credited.samples] == [[1], [-1], [1], [-1]]
    real, generated, other, _ = credited.samples
    assert real.group == generated.group == "m0/a" and other.group == "m3/a"
    assert real.utterances[0].pair == generated.utterances[0].pair != other.utterances[0].pair
    assert supervised([real, generated]) == [7, 8, 9, 100, 101]
    assert generated.logprobs is not None and real.logprobs is None
    with pytest.raises(NothingKept, match="no demonstration"):
        SpinPairs()(matches, ME)


def test_further_fine_tuning_takes_each_real_reply_once_and_nothing_of_the_play() -> None:
    matches = [episode(f"m{at}", {"a": 0.0}, "a", scenario=f"prompt{number}") for at, number in enumerate((1, 0, 0, 7))]
    given = [Sample(f"prompt{number}", (900, 7 + number), (Utterance(1, 2),)) for number in range(3)]
    credited = Demonstrated()(matches, ME, given)
    assert credited.samples == given[:2] and Demonstrated().mix is None
    assert sorted((v.scenario, v.kept) for v in credited.table) == [
        ("prompt0", True),
        ("prompt1", True),
        ("prompt7", False),
    ]
    with pytest.raises(NothingKept, match="no demonstration"):
        Demonstrated()(matches, ME)


def test_credit_imports_no_torch() -> None:
    code = "import sys, parley.credit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_matches_of_people_who_did_not_agree_to_training_have_no_logs():
    for name in ("human", "person:p1"):
        match = episode("m", {"a": 1.0, "b": 0.0}, players={"a": ME, "b": name})
        match = replace(match, policies={"a": ME, "b": ""})
        agreed = replace(match, extra={"consent": {"b": {"training": True}}})
        refused = replace(match, extra={"consent": {"b": {"training": False}}})
        assert [len(list(logs([each], ME))) for each in (match, refused, agreed)] == [0, 0, 1]
