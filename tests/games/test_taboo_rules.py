"""Every rule of Adversarial Taboo, golden transcripts, and the published layouts without their defects."""

import re
from random import Random

import pytest
from parley.games import conformance
from parley.games.base import Message, Reply, Request, Result, Scenario
from parley.games.taboo import METRICS, Taboo, legacy, ruling, strict
from parley.games.taboo.layouts import MARKERS, NAMES, Draw, rollout_text, training_text
from parley.games.taboo.prompts import ERRORS, RULES, Brief, rules

APPLE = Scenario("taboo:apple", {"word": "apple"})
PUBLISHED = ["spag", "spag_utterance", "spag_rollout"]


def play(
    game: Taboo, *texts: str | Reply, seed: int = 0, scenario: Scenario = APPLE
) -> tuple[Result | None, list[Request]]:
    """Answers one request after the other; a Reply is sent with its own finish. No result: the match waits for more."""
    match, asked = game.match(scenario, seed), []
    requests = match.start()
    for text in texts:
        assert len(requests) == 1, f"the match was over before {text!r}"
        asked.append(requests[0])
        reply = text if isinstance(text, Reply) else Reply("", text)
        requests = match.step([Reply(requests[0].id, reply.text, reply.finish)])
    return (None, [*asked, *requests]) if requests else (match.result(), asked)


def end(game: Taboo, *texts: str | Reply) -> Result:
    result, _ = play(game, *texts)
    assert result is not None
    return result


# Golden transcripts


def test_golden_compact_defender_wins():
    result, asked = play(
        Taboo(prompt="compact"), "it is red", "go on", "it  has\nseeds", "i know the word! it is apple"
    )
    assert [(request.id, request.seat, request.kind) for request in asked] == [
        ("attacker.1", "attacker", "act"),
        ("defender.1", "defender", "act"),
        ("attacker.2", "attacker", "act"),
        ("defender.2", "defender", "act"),
    ]
    assert asked[0].messages == (Message("system", "attacker apple"),)
    assert asked[2].messages == (
        Message("system", "attacker apple"),
        Message("assistant", "it is red", "attacker.1"),
        Message("user", "go on"),
    )
    assert asked[3].messages == (
        Message("system", "defender"),
        Message("user", "it is red"),
        Message("assistant", "go on", "defender.1"),
        Message("user", "it has seeds"),
    )
    assert asked[2].observation == {
        "word": "apple",
        "history": [["you", "it is red"], ["partner", "go on"]],
        "turns_left": 4,
        "error": None,
    }
    assert asked[3].observation == {
        "history": [["partner", "it is red"], ["you", "go on"], ["partner", "it  has\nseeds"]],
        "turns_left": 4,
        "error": None,
    }
    assert result is not None and result.outcome == "defender" and result.blame == ()
    assert result.returns == {"attacker": -1.0, "defender": 1.0}
    assert result.outcome_by_seat == {"attacker": "loss", "defender": "win"}
    assert result.marks == {"defender.2": {"strict": "defender", "legacy": "defender"}}
    assert result.metrics == {
        "win_rate": {"attacker": 0, "defender": 1},
        "attacker_win_rate": {"attacker": 0},
        "defender_win_rate": {"defender": 1},
        "attacker_break_rate": {"attacker": 0},
        "attacker_win_clean": {"attacker": 0},
        "defender_win_clean": {"defender": 1},
        "tie_rate": 0,
        "word_leak_rate": {"attacker": 0, "defender": 0},
        "guess_rate": {"defender": 1},
        "guess_accuracy": {"defender": 1},
        "turns": 4,
        "words": {"attacker": 3.0, "defender": 4.5},
        "retries": {"attacker": 0, "defender": 0},
        "invalid_rate": {"attacker": 0, "defender": 0},
        "judges_agree": 1,
        **{f"{judge}_{ruled}": 0 for judge in ("strict", "legacy") for ruled in ("attacker", "breach", "none")},
        "strict_defender": 1,
        "legacy_defender": 1,
    }


def test_golden_chat():
    _, asked = play(Taboo(), "  Do you like fruit?\n", "Yes.", "Which?")
    attacker, defender = (asked[turn].messages[0].content for turn in (0, 1))
    job = (
        'You are the attacker. The target word is "apple": do not say it in any form. Reply with your next utterance '
        "only."
    )
    assert attacker.endswith(job)
    assert defender.endswith("You are the defender. Work out the target word. Reply with your next utterance only.")
    assert [(each.role, each.content) for each in asked[0].messages[1:]] == [
        ("user", "The game begins. You speak first.")
    ]
    assert [(each.role, each.content) for each in asked[2].messages[2:]] == [
        ("assistant", "  Do you like fruit?\n"),
        ("user", "Yes."),
    ]
    assert [(each.role, each.content) for each in asked[3].messages[1:]] == [
        ("user", "Do you like fruit?"),
        ("assistant", "Yes."),
        ("user", "Which?"),
    ]


ENDS = [
    (("Hello.", "An apple!"), "attacker", (), {"attacker": 1, "defender": -1}, ("win", "loss")),
    (("Hello.", "I know the word! It is pear."), "attacker", (), {"attacker": 1, "defender": -1}, ("win", "loss")),
    (("Hello.", "I know the word! It is apple."), "defender", (), {"attacker": -1, "defender": 1}, ("loss", "win")),
    (("An apple.",), "breach", ("attacker",), {"attacker": -1, "defender": 0}, ("loss", "void")),
    (("I know the word! It is pear.",), "breach", ("attacker",), {"attacker": -1, "defender": 0}, ("loss", "void")),
    (("", "  "), "abort", ("attacker",), {"attacker": -1, "defender": 0}, ("loss", "void")),
    (
        ("Hello.", "", Reply("", "No.", "refusal")),
        "abort",
        ("defender",),
        {"attacker": 0, "defender": -1},
        ("void", "loss"),
    ),
    ((Reply("", "", "context"),), "context", ("attacker",), {"attacker": -1, "defender": 0}, ("loss", "void")),
    (("a", "b") * 5, "tie", (), {"attacker": 0, "defender": 0}, ("tie", "tie")),
]


@pytest.mark.parametrize(("texts", "outcome", "blame", "returns", "by_seat"), ENDS)
@pytest.mark.parametrize("prompt", ["chat", "compact", *PUBLISHED])
def test_how_a_match_ends(prompt, texts, outcome, blame, returns, by_seat):
    result = end(Taboo(prompt=prompt), *texts)
    assert (result.outcome, result.blame, result.returns) == (outcome, blame, returns)
    assert (result.outcome_by_seat["attacker"], result.outcome_by_seat["defender"]) == by_seat
    assert set(result.metrics) <= set(METRICS)


def test_a_void_breach_counts_for_nothing():
    result = end(Taboo(breach="void"), "An apple.")
    assert (result.outcome, result.blame) == ("breach", ("attacker",)) and set(result.returns.values()) == {0.0}
    assert result.outcome_by_seat == {"attacker": "void", "defender": "void"} and result.metrics[
        "attacker_break_rate"
    ] == {"attacker": 1}
    assert end(Taboo(breach="void"), "", "").returns == {"attacker": -1.0, "defender": 0.0}  # an abort is no breach


def test_turns_are_counted_for_each_side():
    assert end(Taboo(turns=2), "a", "b", "c", "d").metrics["turns"] == 4
    result, asked = play(Taboo(turns=3), *"abcde")
    assert result is None and [request.observation["turns_left"] for request in asked] == [3, 3, 2, 2, 1, 1]


def test_an_empty_reply_is_asked_for_again_and_forgotten():
    result, asked = play(Taboo(prompt="compact"), "", "it is red", Reply("", "I cannot", "refusal"), "go on")
    assert [request.kind for request in asked] == ["act", "retry", "act", "retry", "act"] and result is None
    assert asked[1].messages[1:] == (Message("assistant", "", "attacker.1"), Message("user", "error empty"))
    assert asked[1].observation["error"] == "empty" and asked[3].observation["error"] == "refusal"
    assert asked[4].observation["history"] == [["you", "it is red"], ["partner", "go on"]]
    result = end(Taboo(prompt="compact"), "", "apple")
    assert result.marks == {"attacker.1": {"retry": "empty"}, "attacker.2": {"strict": "breach", "legacy": "breach"}}
    assert result.metrics["retries"] == {"attacker": 1, "defender": 0} and result.metrics["invalid_rate"] == {
        "attacker": 0,
        "defender": 0,
    }
    assert end(Taboo(), "x", "", "").metrics["invalid_rate"] == {"attacker": 0, "defender": 1}
    assert set(ERRORS) == {"empty", "refusal"}


def test_a_cut_reply_is_an_utterance():
    result, _ = play(Taboo(), Reply("", "It is a long", "length"))
    assert result is None


# The judges


def test_both_judges_are_recorded_and_one_decides():
    lines = ("I like pineapples", "Me too", "And trees", "I know the word! It must be apple")
    found = end(Taboo(judge="strict"), *lines)
    assert found.outcome == "defender" and found.metrics["judges_agree"] == 0
    assert (
        found.metrics["strict_defender"] == 1
        and found.metrics["legacy_breach"] == 1
        and found.metrics["legacy_defender"] == 0
    )
    assert found.marks == {"attacker.1": {"legacy": "breach"}, "defender.2": {"strict": "defender"}}
    found = end(Taboo(judge="legacy"), *lines[:1])
    assert (
        found.outcome == "breach"
        and found.metrics["strict_none"] == 1
        and found.marks == {"attacker.1": {"legacy": "breach"}}
    )


@pytest.mark.parametrize("judge", ["strict", "legacy"])
def test_the_match_stops_where_the_judge_first_rules(judge):
    """The same predicate stops the match and decides it, whatever is said."""
    lines = [
        "hi",
        "party",
        "art?",
        "I know the word! It is artist",
        "I know the word: it is art",
        "the art of it",
        "I know",
        "arts",
    ]
    make = {"strict": strict, "legacy": legacy}[judge]
    scenario = Scenario("taboo:art", {"word": "art"})
    for start in range(len(lines)):
        texts = [lines[(start + turn) % len(lines)] for turn in range(10)]
        rulings = [ruling(make("art"), ("attacker", "defender")[turn % 2], text) for turn, text in enumerate(texts)]
        last = next((turn for turn, ruled in enumerate(rulings) if ruled), 9)
        result, _ = play(Taboo(judge=judge), *texts[: last + 1], scenario=scenario)
        assert result is not None and result.outcome == (rulings[last] or "tie") and result.metrics["turns"] == last + 1


def test_leaks_and_guesses_are_told_apart():
    lured, guessed, broken = (
        end(Taboo(), *texts).metrics for texts in (("x", "apple?"), ("x", "I know the word! It is pear"), ("apple",))
    )
    announced = end(Taboo(), "I know the word! It is pear").metrics
    assert [each["word_leak_rate"] for each in (lured, guessed, broken, announced)] == [
        {"attacker": 0, "defender": 1},
        {"attacker": 0, "defender": 0},
        {"attacker": 1, "defender": 0},
        {"attacker": 0, "defender": 0},
    ]
    assert [each["guess_rate"]["defender"] for each in (lured, guessed, broken)] == [0, 1, 0]
    assert guessed["guess_accuracy"] == {"defender": 0} and "guess_accuracy" not in lured
    assert "attacker_win_clean" not in broken and lured["attacker_win_clean"] == {"attacker": 1}


def test_every_metric_is_defined():
    seen = {name for texts, *_ in ENDS for name in end(Taboo(), *texts).metrics}
    assert seen == set(METRICS) == set(Taboo().facts.metrics)


# Prompts


NUMBERS = re.compile(r"\b(?:two|three|four|five|six|\d+) (?:turns|rounds|times)", re.I)


@pytest.mark.parametrize("text", RULES)
def test_every_paraphrase_tells_the_same_facts(text):
    """The seventh of the original had four rounds in it, whatever the game was."""
    for turns, void, breach in ((5, False, "the attacker loses"), (7, True, "the game is void")):
        told = rules(text, Brief("attacker", "apple", turns, void))
        assert re.findall(r"\d+", told) == [str(turns)] and breach in told and "{" not in told
        assert [each for each in NUMBERS.findall(told) if str(turns) not in each] == []
        assert '"I know the word! It is ..."' in told
        assert all(word in told for word in ("attacker", "defender", "tie", "guess")) and "apple" not in told
    assert len(set(RULES)) == len(RULES) == 8


def test_paraphrases_are_drawn_for_each_match_and_seat():
    seen = {}
    for seed in range(60):
        _, asked = play(Taboo(), "x", seed=seed)
        seen[seed] = tuple(request.messages[0].content for request in asked)
        assert seen[seed] == tuple(request.messages[0].content for request in play(Taboo(), "x", seed=seed)[1])
    assert len({attacker for attacker, _ in seen.values()}) == len({defender for _, defender in seen.values()}) == 8
    assert len(set(seen.values())) > 30  # the two seats do not draw together


def test_training_layouts():
    history = [("attacker", "hi"), ("defender", " yes"), ("attacker", "red")]
    told = Brief("defender", None, 5, False)
    draw = Draw("chat", "RULES {turns} {breach}.", "# ", ("A", "Q"), "System", True, False)
    lines = "\n\n# Q: hi\n\n# A:  yes\n\n# Q: red"
    job = "You are the defender. Work out the target word and give your next utterance"
    head = "System: RULES 5 the attacker loses."
    assert training_text(draw, told, history) == f"{head} {job}.{lines}\n\n# A: "
    inverse = Draw("chat_inverse", draw.rules, "", None, "Rules", True, False)
    assert training_text(inverse, told, history) == (
        f"attacker: hi\n\ndefender:  yes\n\nattacker: red\n\nRules: RULES 5 the attacker loses. {job}.\n\ndefender: "
    )
    alpaca = Draw("alpaca", draw.rules, "# ", ("A", "Q"), "System", True, False)
    assert training_text(alpaca, told, history) == f"{head}\n\nGame History:{lines}\n\n{job}.\n\n# A: "
    asks = Draw("alpaca", draw.rules, "# ", ("A", "Q"), "System", False, True)
    assert training_text(asks, told, history) == f"RULES 5 the attacker loses.\n\nGame History:{lines}\n\n{job}: "
    opener = Brief("attacker", "apple", 5, True)
    job = "You are the attacker and the target word is `apple`. Give your next utterance"
    head = "System: RULES 5 the game is void."
    assert training_text(draw, opener, []) == f"{head} {job}. The game has just begun.\n\n# A: "
    assert training_text(alpaca, opener, []) == f"{head} The game has just begun.\n\n{job}.\n\n# A: "
    assert (
        training_text(inverse, opener, [])
        == f"The game has just begun.\n\nRules: RULES 5 the game is void. {job}.\n\nattacker: "
    )


def test_rollout_layout():
    head = rules(RULES[0], Brief("defender", None, 5, False))
    history = [("attacker", "hi"), ("defender", "yes"), ("attacker", "red")]
    assert rollout_text(Brief("defender", None, 5, False), history) == (
        f"{head}\n\n### Game History:\n  - attacker: hi\n  - defender: yes\n  - attacker: red\n\n"
        "### Instruction: You are the defender. Work out the target word and give your next utterance.\n\n### Response:"
    )
    assert rollout_text(Brief("attacker", "apple", 5, False), []).startswith(
        f"{head} The game has just begun.\n\n### Instruction: You are"
    )


def shown(request: Request) -> str:
    return "".join(message.content for message in request.messages)


def test_draws_are_made_once_a_seat_or_anew():
    lines = ("hi", "yes", "red", "no", "round", "well")
    grown = 0
    for seed in range(30):
        _, asked = play(Taboo(prompt="spag"), *lines, seed=seed)
        for request in asked[2:]:
            before = next(each for each in reversed(asked[: asked.index(request)]) if each.seat == request.seat)
            said = lines[asked.index(before)]
            if shown(request).startswith(
                shown(before) + said
            ):  # layout chat: the view has grown, and holds the own reply
                assert (
                    request.messages[: len(before.messages)] == before.messages
                    and request.messages[-2].request == before.id
                )
                grown += 1
            else:
                assert [message.role for message in request.messages] == ["user"]
    assert grown > 20
    texts = [shown(play(Taboo(prompt="spag_utterance"), *lines, seed=seed)[1][4])[:40] for seed in range(60)]
    assert len(set(texts)) > 8
    again = [shown(play(Taboo(prompt="spag_utterance"), *lines, seed=seed)[1][4])[:40] for seed in range(60)]
    assert texts == again


@pytest.mark.parametrize("prompt", PUBLISHED)
def test_a_published_layout_forgets_an_illegal_reply(prompt):
    for seed in range(10):
        _, asked = play(Taboo(prompt=prompt), Reply("", "I must not say", "refusal"), "hi", "", "yes", seed=seed)
        assert [request.kind for request in asked] == ["act", "retry", "act", "retry", "act"]
        assert not any(
            "must not say\n" in shown(request) or shown(request).endswith("I must not say") for request in asked
        )
        if prompt != "spag_utterance":
            assert shown(asked[1]) == shown(asked[0]) and shown(asked[3]) == shown(asked[2])


def test_only_the_attacker_is_told_the_word():
    for prompt in ("chat", "compact", *PUBLISHED):
        for seed in range(20):
            _, asked = play(Taboo(prompt=prompt), "hi", "yes", "red", seed=seed)
            for request in asked:
                assert ("apple" in shown(request)) == (request.seat == "attacker") == ("word" in request.observation), (
                    prompt,
                    request,
                )


def test_draws_cover_what_was_published():
    draws = [Draw.of(Random(seed)) for seed in range(3000)]
    assert {draw.marker for draw in draws} == set(MARKERS) and len(MARKERS) == 7
    assert {draw.names for draw in draws} == set(NAMES) and len(NAMES) == 5
    for layout in ("chat", "chat_inverse", "alpaca"):
        assert 0.29 < sum(draw.layout == layout for draw in draws) / 3000 < 0.38
    assert (
        0.17 < sum(draw.labelled for draw in draws) / 3000 < 0.23
        and 0.17 < sum(draw.asks for draw in draws) / 3000 < 0.23
    )


# The contract and the options


OPTIONS = [{}, {"prompt": "compact"}, {"judge": "legacy", "breach": "void"}, {"turns": 1, "retries": 0}, {"retries": 3}]


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_conformance(check, options):
    conformance.CHECKS[check](Taboo(**options))


@pytest.mark.parametrize(
    "check", sorted(conformance.CHECKS.keys() - {"views"})
)  # these layouts rewrite the view, as published
@pytest.mark.parametrize("prompt", PUBLISHED)
def test_conformance_of_the_published_layouts(check, prompt):
    conformance.CHECKS[check](Taboo(prompt=prompt))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "kind"}, "judge='kind', expected strict, legacy"),
        ({"breach": "tie"}, "breach='tie', expected loss, void"),
        ({"prompt": "full"}, "prompt='full', expected chat, compact, spag, spag_utterance, spag_rollout"),
        ({"turns": 0, "retries": -1}, "turns=0, .*; retries=-1, expected a whole number of at least 0"),
        ({"turns": True}, "turns=True"),
        ({"limit": 0}, "limit=0"),
        ({"test": 0.0}, "test=0.0, expected shares above 0"),
        ({"test": 0.5, "validation": 0.5}, "leave some words to train on"),
        ({"validation": "half"}, "validation='half'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Taboo(**options)


def test_a_foreign_scenario_is_named():
    for data in ({}, {"word": ""}, {"word": 3}):
        with pytest.raises(ValueError, match="scenario 'deal:1' has no word"):
            Taboo().match(Scenario("deal:1", data), 0)
