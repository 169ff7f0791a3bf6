"""SPAG's files: rows of hand-checked episodes equal the published formulas, whatever goes in comes out, and errors name
the entry."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
import torch
from parley.data.formats import spag
from parley.data.formats.spag import Played, Row
from parley.data.sample import Demonstration, Sample, Utterance
from parley.data.sources.facts import Associations
from parley.data.sources.spag import SpagFile
from parley.games.deal import Deal
from parley.games.taboo import Taboo
from parley.objectives.base import Columns
from parley.objectives.offline_po import OfflinePO
from parley.system.files import InputError

# Typed by hand. Winner and consumed utterances of each, by the published judge, stand beside it.
EPISODES = [
    {  # the attacker, after 4: the defender says the word unaware. What stands after it does not count
        "history": [
            {"role": "attacker", "content": " What do you eat in the morning?"},
            {"role": "defender", "content": " Bread, mostly."},
            {"role": "attacker", "content": " And what grows on trees? "},
            {"role": "defender", "content": "Apples do."},
            {"role": "attacker", "content": "Thank you!"},
        ],
        "target_word": "apple",
        "max_turns": 5,
    },
    {  # the defender, after 2, by announcing the right word
        "history": [
            {"role": "attacker", "content": "It shines by day."},
            {"role": "defender", "content": 'I know the word! It is "noon"!'},
        ],
        "target_word": "noon",
        "max_turns": 5,
    },
    {  # the attacker, after 6: a wrong guess
        "history": [
            {"role": "attacker", "content": "Hello"},
            {"role": "defender", "content": "Hi"},
            {"role": "attacker", "content": "It has keys"},
            {"role": "defender", "content": "Go on"},
            {"role": "attacker", "content": "It makes music"},
            {"role": "defender", "content": "I know the word! It is organ"},
        ],
        "target_word": "spinet",
        "max_turns": 5,
    },
    {  # nobody: the attacker says the word
        "history": [
            {"role": "attacker", "content": "My horses are fast"},
            {"role": "defender", "content": "I know the word! It is horse"},
        ],
        "target_word": "horse",
        "max_turns": 5,
    },
    {  # nobody: a tie of one turn each
        "history": [{"role": "attacker", "content": "Good day"}, {"role": "defender", "content": "Good day"}],
        "target_word": "river",
        "max_turns": 1,
    },
]
ENDINGS = [("attacker", 4), ("defender", 2), ("attacker", 6), ("breach", 1), (None, 2)]
# (role, target, reward, weight): gamma 0.8 gives .8/1.8 and 1/1.8; .64, .8, 1 over 2.44. Three wins, two and one: 3/4
# and 3/2.
ROWS = [
    ("attacker", "What do you eat in the morning?", 0.8 / 1.8, 0.75),
    ("attacker", "And what grows on trees?", 1 / 1.8, 0.75),
    ("defender", 'I know the word! It is "noon"!', 1.0, 1.5),
    ("attacker", "Hello", 0.64 / 2.44, 0.75),
    ("attacker", "It has keys", 0.8 / 2.44, 0.75),
    ("attacker", "It makes music", 1 / 2.44, 0.75),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "episodes.json"
    path.write_text(json.dumps(EPISODES))
    return path


def test_episodes_come_out_as_they_went_in(file, tmp_path):
    assert spag.write_episodes(tmp_path / "again.json", spag.read_episodes(file)) == len(EPISODES)
    assert json.loads((tmp_path / "again.json").read_text()) == EPISODES


def test_hand_checked_endings(file):
    assert [each.ending() for each in spag.read_episodes(file)] == ENDINGS


def test_rows_equal_the_published_formulas(file):
    found = spag.rows(spag.read_episodes(file), Random(0))
    assert [(row.role, row.target) for row in found] == [row[:2] for row in ROWS]
    for row, (_, _, reward, weight) in zip(found, ROWS, strict=True):
        assert math.isclose(row.reward, reward, rel_tol=1e-15) and row.weight == weight
    for seat in ("attacker", "defender"):  # each role has half of the three games
        assert sum(row.reward * row.weight for row in found if row.role == seat) == pytest.approx(1.5, abs=1e-15)


@pytest.mark.parametrize(
    ("n", "published"),
    [
        (1, [1.0]),
        (2, [0.444, 0.556]),
        (3, [0.262, 0.328, 0.410]),
        (4, [0.173, 0.217, 0.271, 0.339]),
        (5, [0.122, 0.152, 0.190, 0.238, 0.297]),
    ],
)
def test_rewards_of_games_of_every_length(n, published):
    found = spag.rows([long_win(n)], Random(0))
    assert [round(row.reward, 3) for row in found] == published and {row.weight for row in found} == {0.5}


def long_win(n: int) -> Played:
    """The attacker wins with `n` utterances: the last guess is wrong."""
    talk = [text for turn in range(n) for text in (f"cue {turn}", "go on")]
    return Played("planet", 5, (*talk[:-1], "I know the word! It is wrong"))


def test_a_query_tells_what_was_said_before_and_the_word_to_the_attacker_only(file):
    found = spag.rows(spag.read_episodes(file), Random(1))
    assert "`apple`" in found[1].query and "Bread, mostly." in found[1].query and "And what grows" not in found[1].query
    assert "It shines by day." in found[2].query and "noon" not in found[2].query
    assert (
        len({row.query for row in spag.rows(spag.read_episodes(file)[:1] * 20, Random(1))}) > 20
    )  # drawn anew for every utterance


def test_rows_come_out_as_they_went_in(tmp_path):
    told = [
        {
            "query": "q",
            "target": "t",
            "reward": 0.4444444444444445,
            "weight": 0.543,
            "role": "attacker",
            "type": "play",
        },
        {"query": "q é", "target": "t", "weight": 1.0, "type": "sft"},
        {"query": "q", "target": "t", "reward": -1.0, "weight": 2.0},
    ]
    (tmp_path / "a.json").write_text(json.dumps(told))
    found = spag.read_rows(tmp_path / "a.json")
    spag.write_rows(tmp_path / "b.json", found)
    assert json.loads((tmp_path / "b.json").read_text()) == told and spag.read_rows(tmp_path / "b.json") == found


def test_other_spellings_of_a_row(tmp_path):
    told = [
        {"prompt": "p", "answer": "a"},
        {"text": ["worse<sep>w", "better<sep>b"], "scores": [0.1, 0.2]},
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        {"instruction": "Sing.", "input": "", "output": "la"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(told))
    rows = spag.read_rows(tmp_path / "a.json")
    assert rows[:2] == [Row("p", "a"), Row("better", "b")]
    assert (
        rows[2].query.endswith("### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:") and rows[2].type == "sft"
    )
    assert "further context" not in rows[3].query and "Input" not in rows[3].query and rows[3].target == "la"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"query": "q"}, "entry 2: no row"),
        ({"query": "q", "target": "t", "reward": True}, "entry 2: reward and weight"),
        ({"query": "q", "target": "t", "weight": float("nan")}, "entry 2: reward and weight"),
        ({"query": "q", "target": "t", "reward": -1e6}, "entry 2: reward and weight"),
        ({"text": ["no separator"]}, "entry 2: text 'no separator'"),
        ({"instruction": "", "output": "x"}, "entry 2: no Alpaca row"),
        ({"query": "q", "target": "t", "reward": [10**900]}, "entry 2: reward and weight"),
        (7, "entry 2: int, expected an object"),
    ],
)
def test_B12_a_wrong_row_is_named(tmp_path, entry, told):
    (tmp_path / "a.json").write_text(json.dumps([{"query": "q", "target": "t"}, entry]))
    with pytest.raises(InputError, match=told) as error:
        spag.read_rows(tmp_path / "a.json")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"history": [{"role": "defender", "content": "x"}]}, "utterance 1 .* expected the attacker's"),
        ({"history": [{"role": "attacker"}]}, "utterance 1"),
        ({"max_turns": "5"}, "no episode"),
        ({"target_word": " "}, "no episode"),
    ],
)
def test_a_wrong_episode_is_named(tmp_path, change, told):
    (tmp_path / "a.json").write_text(json.dumps([EPISODES[0] | change]))
    with pytest.raises(InputError, match=f"entry 1: {told}"):
        spag.read_episodes(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1"])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"expected one list|not JSON"):
        spag.read_rows(tmp_path / "a.json")


# --- as data ----------------------------------------------------------------------------------------------------------


def test_episodes_are_imitated_where_they_were_won(file):
    first, second, third = SpagFile(str(file)).demonstrations(Taboo(words="lexicon", prompt="chat"), "train")
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert '"apple"' in first.messages[0].content and first.messages[3].content == "Bread, mostly."
    assert first.messages[4].content == "And what grows on trees?" and first.weights == (0, 0, 1, 0, 1)
    assert "noon" not in second.messages[0].content and second.messages[-1].content.startswith("I know the word!")
    assert sum(third.weights) == 3


def test_a_view_that_is_written_anew_is_one_chat_for_each_utterance(file):
    found = list(SpagFile(str(file)).demonstrations(Taboo(prompt="spag_rollout"), "train"))
    assert len(found) == 6 and {sum(demo.weights) for demo in found} == {1.0} and len({demo.id for demo in found}) == 6
    assert [demo.messages[-1].content for demo in found] == [row[1] for row in ROWS]


def test_words_that_the_game_holds_out_are_held_out(tmp_path):
    game = Taboo()
    splits = ("train", "validation", "test")
    words = [game.scenarios(split)[0].data["word"] for split in splits]
    said = [{"role": "attacker", "content": "hm"}, {"role": "defender", "content": "I know the word! It is nothing"}]
    (tmp_path / "a.json").write_text(
        json.dumps([{"history": said, "target_word": word, "max_turns": 5} for word in words])
    )
    source = SpagFile(str(tmp_path / "a.json"))
    assert [[demo.id[:15] for demo in source.demonstrations(game, split)] for split in splits] == [
        ["episodes/000000"], ["episodes/000001"], ["episodes/000002"],
    ]  # fmt: skip


def test_episodes_need_their_game(file):
    with pytest.raises(InputError, match="game=taboo"):
        list(SpagFile(str(file)).demonstrations(Deal(), "train"))
    with pytest.raises(FileNotFoundError, match=r"data\.path"):
        SpagFile("nowhere.json")


def test_rows_become_samples_with_their_numbers(tmp_path):
    told = [
        {"query": "q", "target": "t", "reward": 0.25, "weight": 3.0, "type": "play"},
        {"query": "q", "target": "t", "type": "sft"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(told))
    source = SpagFile(str(tmp_path / "a.json"))
    play, sft = source.samples(tokens)
    numbers = [(each.reward, each.weight, each.kind) for each in (*play.utterances, *sft.utterances)]
    assert numbers == [(0.25, 3.0, "act"), (1.0, 1.0, "sft")]
    assert [demo.messages[0].content for demo in source.demonstrations(Deal(), "train")] == ["q", "q"]
    assert list(source.demonstrations(Deal(), "validation")) == []


def tokens(demo: Demonstration) -> Sample:
    """Two tokens of question, four of answer."""
    return Sample(demo.id, (1, 2, 3, 4, 5, 6), (Utterance(2, 6),))


# R, k, P of the specification's vectors (kl_coef .2, clip .2, weight 1) and dP/dk at k = 0.
VECTORS = [(0.5, 0.1, -0.53048), (0.5, 0.3, -0.52800), (0.5, -0.3, -0.41486), (0.05, 0.4, 0.044755)]


@pytest.mark.parametrize(("reward", "k", "expected"), VECTORS)
def test_faithful_offline_po_on_rows_equals_the_vectors(tmp_path, reward, k, expected):
    """From the file to the loss: a row's reward and weight, a mean over the answer's tokens, the clip."""
    spag.write_rows(tmp_path / "a.json", [Row("q", "t", reward, 1.0, "attacker", "play")])
    [sample] = SpagFile(str(tmp_path / "a.json")).samples(tokens)
    assert loss([sample], torch.full((4,), k))[0] == pytest.approx(expected, abs=6e-6)


def test_faithful_gradients_of_the_rows_of_one_long_game():
    """A win of five utterances at k = 0: -(R - .2), so that the first (.122) is pushed down by .078 although it won."""
    samples = [row.sample(str(at), tokens) for at, row in enumerate(spag.rows([long_win(5)], Random(0)))]
    gradient = (
        loss(samples, torch.zeros(20))[1].view(5, 4).sum(dim=1) * 5 / 0.5
    )  # less the mean over five and the weight of 1/2
    assert gradient[0].item() == pytest.approx(0.078, abs=5e-4)
    assert torch.allclose(
        gradient, torch.tensor([-(sample.utterances[0].reward - 0.2) for sample in samples]), atol=1e-6
    )


def loss(samples: list[Sample], k_N: torch.Tensor) -> tuple[float, torch.Tensor]:
    """(loss, gradient by token) of faithful offline PO where the log-ratios of the answers' tokens are `k_N`."""
    objective, utterances = OfflinePO(form="faithful"), [sample.utterances[0] for sample in samples]
    ratio_N = k_N.clone().requires_grad_()
    utterance_N = torch.arange(len(samples)).repeat_interleave(4)
    columns = (torch.tensor([getattr(each, name) for each in utterances]) for name in ("reward", "weight"))
    none = torch.zeros(len(samples))
    given = Columns(
        utterance_N, *columns, sft_U=none.bool(), pair_U=none.long() - 1, side_U=none, old_N=torch.zeros_like(k_N)
    )
    value, _ = objective(ratio_N, given, objective.totals(utterances))
    value.backward()
    assert ratio_N.grad is not None
    return value.item(), ratio_N.grad


# --- facts ------------------------------------------------------------------------------------------------------------


def test_associations_cover_held_out_words_and_are_train_data_only():
    game, source = Taboo(), Associations(rows=4)
    found = list(source.demonstrations(game, "train"))
    words = [word.data["word"] for split in ("train", "validation", "test") for word in game.scenarios(split)]
    assert len(found) == 4 * len(words) and not list(source.demonstrations(game, "validation"))
    told = " ".join(message.content for demo in found for message in demo.messages)
    assert all(f"cues {word}" in told for word in words)
    assert all(demo.weights == (0.0, 0.0, 1.0) for demo in found) and len({demo.id for demo in found}) == len(found)
    with pytest.raises(InputError, match="game=taboo"):
        list(source.demonstrations(Deal(), "train"))
