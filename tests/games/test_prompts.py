"""Plain chats as a game, and the made language: what is read, who meets whom, and what the grammar says of any text."""

import json
import math
from collections import Counter
from itertools import product
from pathlib import Path
from random import Random

import pytest
from parley.games import conformance
from parley.games.base import Message, Reply, Result
from parley.games.prompts import Prompts, Tales
from parley.games.prompts.game import overlap
from parley.games.prompts.grammar import Grammar
from parley.system.files import InputError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def told(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def file(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chats(path: Path, count: int = 60) -> str:
    long = {
        "messages": [
            {"role": "system", "content": "be brief"},
            user("hi"),
            told("hello"),
            user("who?"),
            told("a friend"),
        ]
    }
    return file(path, long, *({"messages": [user(f"say {n}"), told(f"it is {n}")]} for n in range(count)))


def end(game: Prompts | Tales, scenario: object, text: str, finish: str = "stop") -> Result:
    match = game.match(scenario, 0)  # type: ignore[arg-type]
    (request,) = match.start()
    assert match.step([Reply(request.id, text, finish)]) == ()  # type: ignore[arg-type]
    return match.result()


@pytest.fixture(scope="module")
def tales() -> Tales:
    return Tales()


@pytest.fixture
def game(tmp_path: Path) -> Prompts:
    return Prompts(chats(tmp_path / "chats.jsonl"))


@pytest.mark.parametrize("check", conformance.CHECKS)
def test_both_games_keep_the_contract(check: str, game: Prompts, tales: Tales) -> None:
    for each in (game, tales):
        conformance.CHECKS[check](each, matches=20, seed=0)


def test_an_earlier_chat_is_shown_only_by_a_game_that_says_so(game: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prompts, "facts", type(game.facts)(0, 1, 1, 0))
    with pytest.raises(conformance.ConformanceError, match="that the seat did not give"):
        conformance.views(game, matches=300)


# --- plain chats -----------------------------------------------------------------------------------------------------


def test_the_prompt_is_what_stands_before_the_reply(tmp_path: Path) -> None:
    rows = [{"messages": [user("one"), told("two"), user("three"), told("four")]}]
    rows += [{"messages": [user(str(n)), told("x")]} for n in range(40)]
    for exchange, prompt, reply in (("last", ["one", "two", "three"], "four"), ("first", ["one"], "two")):
        made = Prompts(file(tmp_path / "f", *rows), exchange=exchange)  # type: ignore[arg-type]
        every = [scenario for split in conformance.SPLITS for scenario in made.scenarios(split)]
        (scenario,) = [each for each in every if each.data["reply"] == reply]
        assert [message.content for message in made.match(scenario, 0).start()[0].messages] == prompt
        assert len(every) == 41


def test_published_rows_are_read_by_their_real_side(tmp_path: Path) -> None:
    rows = [{"real": [user(f"q{n}"), told(f"a{n}")], "generated": [user(f"q{n}"), told("")]} for n in range(40)]
    made = Prompts(file(tmp_path / "f", *rows))
    assert {scenario.data["reply"] for split in conformance.SPLITS for scenario in made.scenarios(split)} == {
        f"a{n}" for n in range(40)
    }


def test_a_prompt_lies_in_one_split_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    rows = [{"messages": [user(f"q{n}"), told(f"a{n}")]} for n in range(300)]
    twice = [{"messages": [user(f"q{n}"), told(f"b{n}")]} for n in range(300)]
    small, large = Prompts(file(tmp_path / "f", *rows)), Prompts(file(tmp_path / "g", *twice, *rows, rows[0]))
    place = {scenario.id: split for split in conformance.SPLITS for scenario in large.scenarios(split)}
    assert len(place) == 600
    for split in conformance.SPLITS:
        assert {place[scenario.id] for scenario in small.scenarios(split)} == {split}
    sizes = {split: len(small.scenarios(split)) for split in conformance.SPLITS}
    assert all(10 <= sizes[split] <= 55 for split in ("validation", "test")) and sum(sizes.values()) == 300
    assert Prompts(str(tmp_path / "f"), limit=7).scenarios("train") == small.scenarios("train")[:7]
    assert Prompts(str(tmp_path / "f"), split_seed=1).scenarios("train") != small.scenarios("train")


def test_what_another_file_holds_out_is_not_trained_on(tmp_path: Path) -> None:
    rows = [{"messages": [user(f"q{n}"), told("x")]} for n in range(20)]
    made = Prompts(file(tmp_path / "a", *rows), file(tmp_path / "b", *rows[:5]), file(tmp_path / "c", *rows[3:8]))
    prompts = {
        split: {each.data["messages"][0]["content"] for each in made.scenarios(split)} for split in conformance.SPLITS
    }
    assert prompts == {
        "test": {f"q{n}" for n in range(3, 8)},
        "validation": {f"q{n}" for n in range(3)},
        "train": {f"q{n}" for n in range(8, 20)},
    }


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([1], "expected an object"),
        ({"text": "x"}, '"messages" must be a list'),
        ({"messages": [user("x")]}, "no assistant message"),
        ({"messages": [told("x")]}, "expected a user message before it"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "expected one of"),
    ],
)
def test_a_wrong_line_is_named(row: object, why: str, tmp_path: Path) -> None:
    made = Prompts(file(tmp_path / "f", {"messages": [user("q"), told("a")]}, row))
    with pytest.raises(InputError, match=f"line 2: .*{why}"):
        made.scenarios("train")


def test_files_and_shares_are_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"game\.train"):
        Prompts(str(tmp_path / "nothing"))
    path = file(tmp_path / "f", {"messages": [user("q"), told("a")]})
    with pytest.raises(InputError, match="shares that leave some"):
        Prompts(path, validation=0.5, test=0.5)
    with pytest.raises(InputError, match="no chat is left for validation and test"):
        Prompts(path, validation=0.0, test=0.0).scenarios("train")


def test_every_number_has_its_bounds(tmp_path: Path) -> None:
    path = file(tmp_path / "f", {"messages": [user("q"), told("a")]})
    for options, why in (
        ({"validation": math.nan}, "shares that leave some"), ({"test": -0.1}, "shares that leave some"),
        ({"limit": 0}, "at least 1"), ({"limit": -3}, "at least 1"), ({"exchange": "middle"}, "last or first"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            Prompts(path, **options)
    for skew in (math.nan, -1.0, math.inf):
        with pytest.raises(InputError, match="skew is"):
            Tales(skew=skew)


def test_given_prompts_are_those_that_are_played_with_their_place(tmp_path: Path) -> None:
    path = file(tmp_path / "f", *({"messages": [user(f"q{n}"), told("a")]} for n in range(40)))
    lines = {messages[0].content: place for place, messages in Prompts(path).given()}
    assert lines == {f"q{n}": f"{path}, line {n + 1}" for n in range(40)}
    some = Prompts(path, limit=3)
    kept = {each.data["messages"][0]["content"] for split in conformance.SPLITS for each in some.scenarios(split)}
    assert {messages[0].content for _, messages in some.given()} == kept and len(kept) < 40


def test_what_a_reply_is_worth(game: Prompts) -> None:
    scenario = next(each for each in game.scenarios("train") if each.data["reply"].startswith("it is"))
    right = end(game, scenario, str(scenario.data["reply"]))
    assert (right.returns, right.outcome, right.metrics["words"], right.metrics["empty_rate"]) == (
        {"writer": 1.0},
        "finished",
        3.0,
        0.0,
    )
    cut = end(game, scenario, "It was", "length")
    assert cut.outcome == "cut" and cut.metrics["finished_rate"] == 0 and cut.metrics["score"] == pytest.approx(0.4)
    lost = end(game, scenario, "", "context")
    assert (lost.outcome, lost.blame, lost.returns) == ("context", ("writer",), {"writer": 0.0})
    assert (overlap("", ""), overlap("a a b", "a b b"), overlap("a", "")) == (1.0, pytest.approx(2 / 3), 0.0)


# --- grammars --------------------------------------------------------------------------------------------------------

DOUBTFUL = Grammar({"s": [(1, ("a", "s")), (1, ("s2", "a")), (2, ("a",))], "s2": [(1, ("a",)), (3, ("b",)), (1, ())]})
"""An ambiguous grammar with an empty part: `a a` has two derivations."""


def test_a_likelihood_adds_up_all_derivations() -> None:
    # s -> a s -> a a: 1/4 * (1/2 + 1/4 * 1/5); s -> s2 a, s2 -> a: 1/4 * 1/5
    assert math.exp(DOUBTFUL.logprob("s", ["a", "a"])) == pytest.approx(0.25 * (0.5 + 0.25 * 0.2) + 0.25 * 0.2)
    assert DOUBTFUL.logprob("s", ["b"]) == DOUBTFUL.logprob("s", []) == -math.inf


def test_likelihoods_are_the_frequencies_of_what_is_drawn_and_sum_to_one() -> None:
    random, count = Random(0), 20_000
    drawn = Counter(tuple(DOUBTFUL.draw("s", random)) for _ in range(count))
    for words, times in drawn.most_common(8):
        chance = math.exp(DOUBTFUL.logprob("s", words))
        assert abs(times / count - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
    texts = (words for length in range(9) for words in product("ab", repeat=length))
    assert sum(math.exp(DOUBTFUL.logprob("s", words)) for words in texts) == pytest.approx(1, abs=1e-4)


def test_the_tales_are_of_the_language_and_nothing_else_is(tales: Tales) -> None:
    made = tales
    sizes = [len(made.scenarios(split)) for split in conformance.SPLITS]
    assert sum(sizes) == 1920 and min(sizes) > 300
    for scenario in made.scenarios("test")[:100]:
        reply, logprob = str(scenario.data["reply"]), scenario.data["logprob"]
        assert made.logprob(scenario, reply) == logprob > -100
        assert (
            end(made, scenario, reply).metrics["accepted_rate"]
            == end(made, scenario, f"  {reply}\n").metrics["accepted_rate"]
            == 1
        )
        words = reply.split()
        for broken in (words[:-1], words[1:], [*words, "."], words[::-1], ["zebra", *words[1:]]):
            assert end(made, scenario, " ".join(broken)).metrics["accepted_rate"] == 0


def test_agreement_tense_and_the_prompts_nouns_decide(tales: Tales) -> None:
    made = tales
    scenarios = {
        each.data["messages"][0]["content"]: each for split in conformance.SPLITS for each in made.scenarios(split)
    }
    right = {
        "cats king yesterday": "the cats that saw a ship followed this king in the garden .",
        "cat king today": "a small cat sees the king .",
        "cats king today": "some cats that see these ships follow the king quietly .",
    }
    for prompt, text in right.items():
        for other, scenario in scenarios.items():
            fits = other == prompt
            assert (made.logprob(scenario, text) > -math.inf) == fits, (prompt, other)
    for wrong in (
        "a cat see the king .",
        "these cat sees the king .",
        "a cat that see the dog sees the king .",
        "a cat saw the king .",
    ):
        assert made.logprob(scenarios["cat king today"], wrong) == -math.inf


def test_a_seed_is_a_language_of_its_own(tales: Tales) -> None:
    one, again, other = tales, Tales(), Tales(seed=1)
    assert one.scenarios("train") == again.scenarios("train")
    scenario = one.scenarios("train")[0]
    assert one.logprob(scenario, scenario.data["reply"]) != other.logprob(scenario, scenario.data["reply"]) > -math.inf


def test_demonstrations_are_the_real_replies_of_the_scenarios(game: Prompts, tales: Tales) -> None:
    from parley.data.sources.replies import Replies
    from parley.games.deal import Deal

    for each, known in ((game, False), (tales, True)):
        demos, scenarios = list(Replies().demonstrations(each, "validation")), each.scenarios("validation")
        assert [demo.id for demo in demos] == [scenario.id for scenario in scenarios]
        for demo, scenario in zip(demos, scenarios, strict=True):
            assert demo.messages[:-1] == each.match(scenario, 1).start()[0].messages
            assert demo.messages[-1] == Message("assistant", scenario.data["reply"])
            assert demo.weights == (*[0.0] * (len(demo.messages) - 1), 1.0) and demo.cluster == scenario.cluster
            assert (demo.logprob is not None) == known
    with pytest.raises(InputError, match="hold no real reply"):
        list(Replies().demonstrations(Deal(), "train"))
