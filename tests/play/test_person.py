"""A person at the terminal, scripted: told the rules, what is legal, why a reply was refused, and how it ended."""

import os
import sys

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.run.config import register
from parley.run.match import play_match

register()


def game(*words: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return instantiate(compose("config", list(words)).game)


@pytest.fixture
def typed(monkeypatch):
    """typed(lines) puts a person at the terminal who types these lines."""
    pipes = []

    def put(*lines: str) -> None:
        read, write = os.pipe()
        os.write(write, "".join(f"{line}\n" for line in lines).encode())
        os.close(write)
        pipes.append(os.fdopen(read, "rb"))
        monkeypatch.setattr(sys, "stdin", pipes[-1])

    monkeypatch.setenv("COLUMNS", "400")
    yield put
    for each in pipes:
        each.close()


@pytest.mark.parametrize("prompt", ["compact", "full", "published"])
def test_a_person_plays_deal_or_no_deal_whatever_the_models_prompt(prompt, typed, capsys):
    made = game("game=deal", f"game.prompt={prompt}")
    scenario = made.scenarios("test")[0]
    counts, values = scenario.data["counts"], scenario.data["values"]
    everything = f"[propose] {counts[0]} books {counts[1]} hats {counts[2]} balls"
    typed("books for me", everything, "[message] I take everything", everything)
    made.scripts = lambda: {"giver": giver}
    play_match(made, {"first": "human", "second": "giver"}, scenario)
    said = capsys.readouterr().out
    assert f"share out {counts[0]} books, {counts[1]} hats, {counts[2]} balls" in said
    assert said.count("share out") == 1 and f"each of the books {values[0][0]}" in said
    assert "as in: [message] I would like the books" in said
    assert "That was not taken: it must begin with [message] or [propose]. Try again." in said
    assert "That was not taken: you cannot propose before anything has been said" in said
    assert "   or [propose] and what you keep, as in: [propose] (" in said
    own = sum(count * value for count, value in zip(counts, values[0], strict=True))
    assert f"deal: you {own}, partner 0; the best was " in said
    for model_only in ("You are an expert", "Begin each reply", "error prefix", "[END]"):
        assert model_only not in said


def giver(request, own, persona):
    """Talks once, then wants nothing."""
    return "[propose] 0 books 0 hats 0 balls" if request.observation["own_actions"] else "[message] Take everything."


def test_a_match_without_a_deal_says_why(typed, capsys):
    made = game("game=deal", "game.max_actions=3")
    typed("[message] hello", "[message] well")
    play_match(made, {"first": "human", "second": "fair"})
    assert "no deal, there were too many turns: you 0, partner 0; the best was " in capsys.readouterr().out


def test_a_person_attacks_and_defends_in_taboo(typed, capsys):
    made = game("game=taboo_tiny", "game.prompt=compact")
    word = made.scenarios("test")[0].data["word"]
    typed("", f"is it {word}")
    play_match(made, {"attacker": "human", "defender": "fair"}, made.scenarios("test")[0])
    said = capsys.readouterr().out
    assert f'You know the word "{word}"' in said and "That was not taken: it was empty. Try again." in said
    assert f'you lost; the word was "{word}"' in said
    typed(f"I know the word! It is `{word}`.")
    play_match(made, {"attacker": "fair", "defender": "human"}, made.scenarios("test")[0])
    said = capsys.readouterr().out
    rules, _, rest = said.partition(">")
    assert "Your partner knows a secret word" in rules and word not in rules.split("turns.")[0]
    assert f'the word was "{word}"' in rest


def test_a_game_without_a_guide_lists_what_is_legal_and_says_how_it_ended(typed, capsys):
    made = game("game=kuhn")
    typed(*["nonsense"] * 3, *["pass"] * 6)
    other = next(iter(made.scripts()))
    play_match(made, dict(zip(made.roles, ("human", other), strict=True)))
    said = capsys.readouterr().out
    assert "you hold " in said and "Write one of: " in said and ": you " in said.rpartition("─")[2]
