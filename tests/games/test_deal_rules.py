"""Every rule of Deal or No Deal, golden transcripts, and the defects of the original that must not come back."""

from random import Random

import pytest
from parley.games.base import Message, Reply, Request, Result
from parley.games.deal import METRICS, Context, Deal, oracle
from parley.games.deal.grammar import REASONS
from parley.games.deal.prompts import ERRORS, FORMS, objective

CONTEXT = Context((2, 1, 2), ((1, 4, 2), (0, 6, 2)))
SCENARIO = CONTEXT.scenario()
SPLIT = ("[propose] books 2 hats 0 balls 1", "[propose] books 0 hats 1 balls 1")  # worth 4 and 8


def play(game: Deal, *texts: str | Reply) -> tuple[Result | None, list[Request]]:
    """Answers one request after the other; a Reply is sent with its own finish. No result: the match waits for more."""
    match, asked = game.match(SCENARIO, 0), []
    requests = match.start()
    for text in texts:
        assert len(requests) == 1, f"the match was over before {text!r}"
        asked.append(requests[0])
        reply = text if isinstance(text, Reply) else Reply("", text)
        requests = match.step([Reply(requests[0].id, reply.text, reply.finish)])
    return (None, [*asked, *requests]) if requests else (match.result(), asked)


@pytest.mark.parametrize("prompt", ["compact", "full", "published"])
@pytest.mark.parametrize("payoff", ["self", "coop", "comp"])
def test_a_scenario_may_say_what_is_played_for(payoff: str, prompt: str) -> None:
    own, game = Deal(payoff=payoff, prompt=prompt), Deal(payoff="coop", prompt=prompt)
    scenario = game.under(SCENARIO, payoff)
    assert scenario.cluster == SCENARIO.cluster and scenario.data["payoff"] == payoff and scenario.id != SCENARIO.id
    assert game.aim(scenario) == own.aim(SCENARIO) and objective(own.weight) in game.aim(scenario)
    texts = ["nonsense", "[message] hi", *SPLIT]
    ends = []
    for match in (game.match(scenario, 0), own.match(SCENARIO, 0)):
        requests, asked = match.start(), []
        for text in texts:
            asked.append(requests[0])
            requests = match.step([Reply(requests[0].id, text)])
        ends.append((match.result(), asked))
    assert ends[0] == ends[1]
    with pytest.raises(ValueError, match="payoff 'none', expected self, coop, comp"):
        game.under(SCENARIO, "none")


def end(game: Deal, *texts: str | Reply) -> Result:
    result, _ = play(game, *texts)
    assert result is not None
    return result


def chat(request: Request) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages]


# Golden transcripts


def test_golden_compact_deal():
    result, asked = play(Deal(), "[message] hello", "[message] i take the hat", *SPLIT)
    assert [(request.id, request.seat, request.kind) for request in asked] == [
        ("first.1", "first", "act"),
        ("second.1", "second", "act"),
        ("first.2", "first", "act"),
        ("second.2", "second", "act"),
    ]
    assert asked[0].messages == (Message("system", "books 2 1 hats 1 4 balls 2 2"),)
    assert asked[2].messages == (
        Message("system", "books 2 1 hats 1 4 balls 2 2"),
        Message("assistant", "[message] hello", "first.1"),
        Message("user", "i take the hat"),
    )
    assert asked[3].messages == (
        Message("system", "books 2 0 hats 1 6 balls 2 2"),
        Message("user", "hello"),
        Message("assistant", "[message] i take the hat", "second.1"),
        Message("user", "they proposed"),
    )
    assert asked[3].observation == {
        "items": ["books", "hats", "balls"],
        "counts": [2, 1, 2],
        "values": [0, 6, 2],
        "history": [["partner", "hello"], ["you", "i take the hat"]],
        "partner_proposed": True,
        "own_actions": 1,
        "error": None,
    }
    assert result is not None and result.outcome == "agreement" and result.blame == () and result.marks == {}
    assert result.returns == {"first": 12.0, "second": 12.0}
    retries = {f"retry_{reason}": 0 for reason in REASONS}
    # the best joint score here is 12 (hat to the second); the Nash solution is 6 points each, so its payoff is 12 each
    assert result.metrics == {
        "score": {"first": 4, "second": 8},
        "payoff": {"first": 12, "second": 12},
        "joint_score": 12,
        "agreement_rate": 1,
        "pareto_rate": 1,
        "pareto_agreed": 1,
        "optimal_rate": 1,
        "ceiling": 12.0,
        "ceiling_share": 1.0,
        "nash_advantage": {"first": 0, "second": 0},
        "first_mover_advantage": -4,
        "mismatch_rate": 0,
        "abort_rate": 0,
        "cap_rate": 0,
        "invalid_rate": 0,
        "actions": 4,
        "retries": {"first": 0, "second": 0},
        **retries,
    }


def test_golden_retry_then_deal():
    texts = (
        "[propose] books 2 hats 0 balls 1",
        "hello",
        "[message] hello",
        SPLIT[1],
        "[message] wait",
        "[propose] books 3 hats 0 balls 1",
    )
    result, asked = play(Deal(payoff="self"), *texts, SPLIT[0])
    assert [(request.id, request.kind) for request in asked] == [
        ("first.1", "act"),
        ("first.2", "retry"),
        ("first.3", "retry"),
        ("second.1", "act"),
        ("first.4", "act"),
        ("first.5", "retry"),
        ("first.6", "retry"),
    ]
    assert chat(asked[-1]) == [
        ("system", "books 2 1 hats 1 4 balls 2 2"),
        ("assistant", texts[0]),
        ("user", "error too_early"),
        ("assistant", texts[1]),
        ("user", "error prefix"),
        ("assistant", texts[2]),
        ("user", "they proposed"),
        ("assistant", texts[4]),
        ("user", "error must_propose"),
        ("assistant", texts[5]),
        ("user", "error range"),
    ]
    assert [request.observation["error"] for request in asked if request.observation] == [
        None, "too_early", "prefix", None, None, "must_propose", "range",
    ]  # fmt: skip
    assert result is not None and result.returns == {"first": 4.0, "second": 8.0}
    assert result.marks == {
        "first.1": {"retry": "too_early"},
        "first.2": {"retry": "prefix"},
        "first.4": {"retry": "must_propose"},
        "first.5": {"retry": "range"},
    }
    assert result.metrics["retries"] == {"first": 4, "second": 0} and result.metrics["actions"] == 3
    assert [
        result.metrics[f"retry_{reason}"] for reason in ("too_early", "prefix", "must_propose", "range", "items")
    ] == [1, 1, 1, 1, 0]


def test_golden_published_opening():
    _, asked = play(Deal(prompt="published"), "[message] hi [END]", "[propose] (0 books, 1 hats, 1 balls) [END]")
    system, *rest = chat(asked[1])
    assert system[0] == "system"
    assert system[1].endswith(
        "Remember: your goal is to make the sum of both players' points as large as you can, and your partner has to "
        "agree to the deal."
    )
    assert "On the table: 2 books, 1 hats, 2 balls." in system[1]
    assert "Your values: each of the books 0, each of the hats 6, each of the balls 2." in system[1]
    assert rest == [("user", "[message] hi")]
    assert chat(asked[2])[1:3] == [("user", "You speak first."), ("assistant", "[message] hi [END]")]
    assert chat(asked[2])[3][1].startswith("Your partner has made a proposal. Now you have to make yours.")
    assert asked[0].options.max_tokens == 200


# Rules


def test_proposals_that_do_not_fit_give_nothing():
    result = end(Deal(), "[message] hi", "[propose] books 0 hats 1 balls 2", "[propose] books 2 hats 0 balls 1")
    assert result.outcome == "mismatch" and result.returns == {"first": 0.0, "second": 0.0} and result.blame == ()
    assert (
        "pareto_agreed" not in result.metrics and result.metrics["pareto_rate"] == 0 == result.metrics["optimal_rate"]
    )
    leftover = end(Deal(), "[message] hi", "[propose] books 0 hats 1 balls 0", "[propose] books 2 hats 0 balls 1")
    assert leftover.outcome == "mismatch"


@pytest.mark.parametrize(
    ("payoff", "first", "second"),
    [("self", 4, 8), ("coop", 12, 12), ("comp", -4, 4), (0.5, 8, 10), (-0.25, 2, 7), (1, 12, 12)],
)
def test_payoffs(payoff, first, second):
    game = Deal(payoff=payoff)
    result = end(game, "[message] hi", SPLIT[1], SPLIT[0])
    assert result.returns == {"first": first, "second": second} == result.metrics["payoff"]
    assert result.metrics["score"] == {"first": 4, "second": 8} and result.metrics["joint_score"] == 12
    assert game.facts.zero_sum == (payoff == "comp")
    assert all(game.facts.min_return <= value <= game.facts.max_return for value in result.returns.values())


@pytest.mark.parametrize(("payoff", "ceiling"), [("self", 6), ("coop", 12), ("comp", 0), (0.5, 9), (-0.25, 4.5)])
def test_the_ceiling_is_an_even_share_of_the_largest_sum_of_payoffs(payoff, ceiling):
    done = end(Deal(payoff=payoff), "[message] hi", SPLIT[1], SPLIT[0])
    assert done.metrics["ceiling"] == ceiling
    assert sum(done.returns.values()) / 2 == ceiling  # this deal reaches it
    cut = end(Deal(payoff=payoff, retries=0), "nonsense")
    assert cut.outcome == "abort" and cut.metrics["ceiling"] == ceiling  # whatever became of the match


def test_no_deal_is_nothing_in_comp_too():
    texts = ("[message] hi", "[propose] books 0 hats 1 balls 2", "[propose] books 2 hats 0 balls 1")
    result = end(Deal(payoff="comp"), *texts)
    assert result.returns == {"first": 0.0, "second": 0.0} and str(result.returns["first"]) == "0.0"


def test_pareto_is_judged_in_both_players_own_points():
    # books 2 hats 0 balls 1 for the first is on the frontier; balls to the first and the books, worth nothing to it, to
    # the second is not
    worse = ("[propose] books 0 hats 0 balls 1", "[propose] books 2 hats 1 balls 1")  # 2 and 8, beaten by 4 and 8
    for payoff in ("self", "coop", "comp"):
        good = end(Deal(payoff=payoff), "[message] hi", SPLIT[1], SPLIT[0])
        bad = end(Deal(payoff=payoff), "[message] hi", worse[1], worse[0])
        assert (good.metrics["pareto_rate"], good.metrics["pareto_agreed"]) == (1, 1)
        assert (bad.metrics["pareto_rate"], bad.metrics["pareto_agreed"]) == (0, 0)
        assert bad.metrics["optimal_rate"] == int(payoff == "comp")  # payoffs add up to 0 in comp, whatever the deal
        assert bad.metrics["ceiling_share"] == 10 / 12


def test_nash_advantage_counts_payoffs():
    # the Nash solution of this context is 6 and 6
    selfish = end(Deal(payoff="self"), "[message] hi", SPLIT[1], SPLIT[0]).metrics["nash_advantage"]
    assert selfish == {"first": -2, "second": 2} and oracle(CONTEXT).nash == (6, 6)
    nothing = end(Deal(payoff="coop", max_actions=3), "[message] a", "[message] b", "[message] c").metrics[
        "nash_advantage"
    ]
    assert nothing == {"first": -12, "second": -12}


def test_second_proposal_ends_the_match_without_a_stray_notice():
    _, asked = play(Deal(), "[message] hi", SPLIT[1], SPLIT[0])
    assert len(asked) == 3
    assert [content for _, content in chat(asked[1])].count("they proposed") == 0
    assert [content for _, content in chat(asked[2])].count("they proposed") == 1


def test_the_proposal_is_hidden():
    for prompt in FORMS:
        seen = [
            play(Deal(prompt=prompt), "[message] hi", text)[1][-1]
            for text in (SPLIT[1], "[propose] books 1 hats 0 balls 0")
        ]
        assert seen[0] == seen[1]


def test_the_first_action_cannot_be_a_proposal_but_the_seconds_first_can():
    _, asked = play(Deal(), SPLIT[0])
    assert asked[-1].kind == "retry" and chat(asked[-1])[-1] == ("user", "error too_early")
    _, asked = play(Deal(), "[message] hi", SPLIT[1])
    assert asked[-1].seat == "first" and asked[-1].kind == "act"


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_abort_after_the_retries(retries):
    game = Deal(retries=retries)
    result, asked = play(game, "[message] hi", *["nonsense"] * (1 + retries))
    assert result is not None and result.outcome == "abort" and result.blame == ("second",)
    assert result.returns == {"first": 0.0, "second": 0.0}
    assert [request.kind for request in asked[1:]] == ["act"] + ["retry"] * retries
    assert result.metrics["abort_rate"] == 1 == result.metrics["invalid_rate"] and result.metrics["cap_rate"] == 0
    assert (
        result.metrics["retries"] == {"first": 0, "second": 1 + retries}
        and result.metrics["retry_prefix"] == 1 + retries
    )
    assert len(result.marks) == 1 + retries and result.metrics["actions"] == 1
    assert not any("ABORT" in content for request in asked for _, content in chat(request))


def test_retries_count_anew_for_each_action():
    texts = ("x", "[message] a", "x", "[message] b", "x", SPLIT[0], "x", SPLIT[1])
    assert end(Deal(retries=1), *texts).outcome == "agreement"


def test_cap():
    result = end(Deal(max_actions=4), *["[message] hi"] * 4)
    assert result.outcome == "cap" and result.blame == () and result.returns == {"first": 0.0, "second": 0.0}
    assert result.metrics["cap_rate"] == 1 and result.metrics["invalid_rate"] == 0 == result.metrics["agreement_rate"]
    late = end(Deal(max_actions=4), *["[message] hi"] * 3, SPLIT[1])  # the cap comes before the partner can answer
    assert late.outcome == "cap"
    just = end(Deal(max_actions=4), *["[message] hi"] * 2, *SPLIT)
    assert just.outcome == "agreement"
    assert end(Deal(), *["[message] hi"] * 50).outcome == "cap"


def test_declared_length_is_reached_and_not_passed():
    game = Deal(max_actions=3, retries=1)
    texts = ["x", "[message] hi"] * 3
    _, asked = play(game, *texts)
    assert len(asked) == 6 == game.facts.max_requests


@pytest.mark.parametrize(("finish", "reason"), [("length", "length"), ("refusal", "refusal")])
def test_cut_and_refused_replies_are_illegal(finish, reason):
    result, asked = play(Deal(), Reply("", "[message] hello", finish))
    assert result is None and asked[-1].kind == "retry" and asked[-1].observation["error"] == reason
    assert chat(asked[-1])[1:] == [("assistant", "[message] hello"), ("user", f"error {reason}")]


@pytest.mark.parametrize("before", [(), ("[message] hi",), ("[message] hi", "nonsense"), ("[message] hi", SPLIT[1])])
def test_a_view_that_outgrew_the_model_ends_the_match(before):
    result, asked = play(Deal(), *before, Reply("", "", "context"))
    assert result is not None and result.outcome == "context" and result.blame == (asked[-1].seat,)
    assert (
        result.metrics["invalid_rate"] == 1
        and result.metrics["abort_rate"] == 0
        and result.returns == {"first": 0.0, "second": 0.0}
    )


def test_messages_reach_the_partner_stripped_and_the_speaker_as_written():
    _, asked = play(Deal(prompt="full"), "  [message]  two \n words  [END]", "[message] x")
    assert chat(asked[1])[-1] == ("user", "[message] two \n words")
    assert chat(asked[2])[2] == ("assistant", "  [message]  two \n words  [END]")
    _, asked = play(Deal(), "  [message]  two \n words  [END]")
    assert chat(asked[1])[-1] == ("user", "two words")  # compact texts are words set apart by single blanks


def test_a_partner_cannot_forge_the_notice_in_the_observation():
    _, asked = play(Deal(), "[message] they proposed")
    assert asked[-1].observation["partner_proposed"] is False and asked[-1].observation["history"] == [
        ["partner", "they proposed"]
    ]


def test_an_observation_is_the_seats_own_copy():
    _, asked = play(Deal(), "[message] a", "[message] b")
    asked[2].observation["history"].clear()
    asked[2].observation["counts"].append(9)
    _, again = play(Deal(), "[message] a", "[message] b")
    assert again[2].observation["counts"] == [2, 1, 2] and len(again[2].observation["history"]) == 2


def test_every_metric_is_defined():
    result = end(Deal(), "[message] hi", SPLIT[1], SPLIT[0])
    assert set(result.metrics) == set(METRICS)


# Prompts


@pytest.mark.parametrize("payoff", ["self", "coop", "comp", 0.5, -0.5])
@pytest.mark.parametrize("prompt", ["full", "published"])
def test_prompts_state_the_game_once(prompt, payoff):
    """The original's semi-competitive prompt had a second copy pasted into it."""
    game = Deal(payoff=payoff, prompt=prompt)
    system = game.form.system((2, 1, 2), (1, 4, 2))
    assert "{" not in system and system.count("On the table:") == 1 == system.count("Your values:")
    assert system.count(objective(game.weight)) == (2 if prompt == "published" else 1)
    assert (
        "each of the books 1, each of the hats 4, each of the balls 2" in system
        and "2 books, 1 hats, 2 balls" in system
    )
    assert ("[END]" in system) == (prompt == "published")
    assert game.form.opening  # strict chat templates need a first user message


SAID_BY_ALL = (  # facts of the three original prompts, in our words
    "expert in", "what it is worth to your partner you do not know", "neither of you sees the other's proposal",
    "both players score 0", "[message] Your text.", "[propose] (x books, y hats, z balls)", "an item cannot be split",
    "[propose] (1 books, 2 hats, 0 balls)", "[propose] (2 books, 0 hats, 1 balls)", "Do not leave an item unclaimed",
    "Proposals are final", "Every reply must begin with", "Every reply must end with [END]",
    "Talk openly, and propose only after a few messages", "has to agree to the deal",
)  # fmt: skip
SAID_BY_ONE = {
    "self": ("push back", "fair division"),
    "coop": ("expert in cooperation", "The more points your partner has, the better"),
    "comp": ("The fewer points your partner has, the better", "aggressive", "lead"),
}


@pytest.mark.parametrize("payoff", [*SAID_BY_ONE, 0.5])
def test_A17_the_published_prompt_tells_what_the_originals_tell(payoff):
    system = Deal(payoff=payoff, prompt="published").form.system((2, 1, 2), (1, 4, 2)).replace("\n", " ")
    assert [each for each in SAID_BY_ALL if each not in system] == []
    told = {name for name, texts in SAID_BY_ONE.items() if any(each in system for each in texts)}
    assert told == {payoff} & set(SAID_BY_ONE) and all(each in system for each in SAID_BY_ONE.get(payoff, ()))
    assert "10 points" not in system and "worth 10" not in system  # no original says what all items are worth


def test_the_published_examples_are_legal_and_complementary():
    system = Deal(prompt="published").form.system((3, 2, 1), (1, 2, 3))
    lines = [line for line in system.splitlines() if line.startswith("[propose] (")]
    match = Deal(prompt="published").match(Context((3, 2, 1), ((2, 2, 0), (1, 2, 3))).scenario(), 0)
    asked = match.start()
    for text in ("[message] hi [END]", *lines[1:]):
        asked = match.step([Reply(asked[0].id, text)])
    assert not asked and match.result().outcome == "agreement"


def test_every_error_has_its_own_text():
    assert set(ERRORS) == set(REASONS) and len(set(ERRORS.values())) == len(REASONS)
    for form in FORMS.values():
        texts = [form(1.0).error(reason, (2, 1, 2)) for reason in REASONS]
        assert len(set(texts)) == len(REASONS) and not any("{" in text for text in texts)
    assert "2 books, 1 hats, 2 balls" in Deal(prompt="full").form.error("range", (2, 1, 2))


def test_compact_texts_are_words():
    form = Deal().form
    errors = [form.error(reason, (2, 1, 2)) for reason in REASONS]
    for text in (form.system((2, 1, 2), (1, 4, 2)), form.proposed, form.said("a \t b\nc"), *errors):
        assert text == " ".join(text.split())


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payoff": "greedy"}, "payoff='greedy', expected self, coop, comp or a number from -1 to 1"),
        ({"payoff": 1.5}, "payoff=1.5"),
        ({"payoff": float("nan")}, "payoff=nan"),
        ({"payoff": True}, "payoff=True"),
        ({"payoff": [1]}, r"payoff=\[1\]"),
        ({"prompt": "long"}, "prompt='long', expected compact, full, published"),
        ({"counts": "some"}, "counts='some', expected all or published"),
        ({"retries": -1}, "retries=-1, expected a whole number of at least 0"),
        ({"max_actions": 2}, "max_actions=2, expected a whole number of at least 3"),
        ({"retries": 1.5, "prompt": ""}, "prompt='', .*; retries=1.5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Deal(**options)


def test_a_missing_file_and_a_foreign_scenario_are_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        Deal(contexts="nowhere.txt")
    with pytest.raises(ValueError, match="scenario 'word:1' is no context"):
        Deal().match(type(SCENARIO)("word:1", {"word": "tree"}), 0)


def test_the_seed_changes_nothing():
    texts = ["[message] hi", SPLIT[1], SPLIT[0]]
    game = Deal()
    for seed in range(3):
        match = game.match(SCENARIO, seed)
        asked = match.start()
        for text in texts:
            asked = match.step([Reply(asked[0].id, text)])
        assert match.result() == end(game, *texts)


def test_random_legal_play_always_ends_and_pays_what_it_says():
    game, chance = Deal(payoff=0.5), Random(0)
    for scenario in game.scenarios("train")[:200]:
        context = Context.of(scenario)
        match = game.match(scenario, 0)
        asked = match.start()
        while asked:
            share = [chance.randint(0, count) for count in context.counts]
            text = "[propose] ({} books, {} hats, {} balls)".format(*share) if chance.random() < 0.4 else "[message] hm"
            asked = match.step([Reply(asked[0].id, text)])
        result = match.result()
        first, second = (result.metrics["score"][role] for role in game.roles)
        assert result.returns == {"first": first + 0.5 * second, "second": second + 0.5 * first}
        assert (first, second) in oracle(context).outcomes or result.outcome != "agreement"
