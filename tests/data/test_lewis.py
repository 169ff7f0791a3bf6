"""Human dialogues: made-up lines as chats of the game, what is refused, and (where it is there) the published data."""

from __future__ import annotations

import math
import os
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from parley.data.formats.lewis import parse, read, relabelled, view
from parley.data.sources.lewis import LewisDialogues
from parley.games.base import Message
from parley.games.deal import Deal
from parley.games.deal.contexts import Context, points

ROOT = Path(__file__).parents[2]
OWN, THEIRS = "2 1 1 4 2 2", "2 0 1 6 2 2"  # 2 books, 1 hat, 2 balls


def line(
    talk: str, output: str = "item0=2 item1=0 item2=2 item0=0 item1=1 item2=0", own: str = OWN, theirs: str = THEIRS
) -> str:
    return (
        f"<input> {own} </input> <dialogue> {talk} </dialogue> <output> {output} </output> <partner_input> {theirs} "
        f"</partner_input>"
    )


TALK = "YOU: i want the books <eos> THEM: fine , the hat is mine <eos> YOU: deal <eos> THEM: <selection>"
MIRROR = "THEM: i want the books <eos> YOU: fine , the hat is mine <eos> THEM: deal <eos> YOU: <selection>"


def mirrored() -> str:
    return line(MIRROR, "item0=0 item1=1 item2=0 item0=2 item1=0 item2=2", THEIRS, OWN)


@pytest.fixture
def folder(tmp_path) -> Path:
    unsettled = line("THEM: no deal <eos> YOU: ok <eos> THEM: <selection>", " ".join(["<no_agreement>"] * 6))
    (tmp_path / "train.txt").write_text(f"{line(TALK)}\n{mirrored()}\n{unsettled}\n")
    (tmp_path / "val.txt").write_text(f"{mirrored()}\n")
    return tmp_path


def demo(folder: Path, number: int, game: Deal | None = None, partner_weight: float = 0.5):
    return list(LewisDialogues(str(folder), partner_weight).demonstrations(game or Deal(), "train"))[number]


def test_a_line_is_the_chat_that_its_player_would_have_had(folder):
    first, second = demo(folder, 0), demo(folder, 1)
    assert first.messages == (
        Message("system", "books 2 1 hats 1 4 balls 2 2"),
        Message("assistant", "[message] i want the books", "first.1"),
        Message("user", "fine , the hat is mine"),
        Message("assistant", "[message] deal", "first.2"),
        Message("user", "they proposed"),  # the partner's turn came next, so it selected first
        Message("assistant", "[propose] books 2 hats 0 balls 2", "first.3"),
    )
    assert first.weights == (0.0, 1.0, 0.5, 1.0, 0.0, 1.0)  # that they proposed is no speech
    assert [message.content for message in second.messages] == [
        "books 2 0 hats 1 6 balls 2 2",
        "i want the books",
        "[message] fine , the hat is mine",
        "deal",
        "[propose] books 0 hats 1 balls 0",
    ]
    assert second.weights == (0.0, 0.5, 1.0, 0.5, 1.0)
    assert (first.id, second.id) == ("train/00001", "train/00002")


def test_both_views_of_a_dialogue_are_one_dialogue():
    one, other = parse(line(TALK)), parse(mirrored())
    assert one.seat == "first" and other.seat == "second"
    assert (one.context, one.utterances, one.shares) == (other.context, other.utterances, other.shares)
    assert one.context == Context((2, 1, 2), ((1, 4, 2), (0, 6, 2))) and one.shares == ((2, 0, 2), (0, 1, 0))
    assert one.replies()[-2:] == ["[propose] books 0 hats 1 balls 0", "[propose] books 2 hats 0 balls 2"]


@pytest.mark.parametrize("outcome", ["<disagree>", "<no_agreement>", "<disconnect>"])
@pytest.mark.parametrize("talk, own, spoken", [(TALK, 2, {2}), (MIRROR, 1, {1, 3})])
def test_without_a_known_selection_the_talk_is_kept(outcome, talk, own, spoken):
    dialogue = parse(line(talk, " ".join([outcome] * 6)))
    messages, heard = view(Deal(), dialogue)
    assert dialogue.shares is None and dialogue.outcome == outcome
    assert [message.content for message in messages[1:]] == [
        f"[message] {text}" if (at % 2 == 0) == (dialogue.seat == "first") else text
        for at, text in enumerate(dialogue.utterances)
    ]
    assert sum(message.role == "assistant" for message in messages) == own and heard == spoken


def test_every_prompt_form_marks_the_partners_words_and_nothing_else(folder):
    for prompt in ("full", "published"):
        shown = demo(folder, 0, Deal(prompt=prompt))
        told = {
            message.content: weight
            for message, weight in zip(shown.messages, shown.weights, strict=True)
            if message.role == "user"
        }
        assert told == {
            "You speak first.": 0.0,
            "[message] fine , the hat is mine": 0.5,
            shown.messages[-2].content: 0.0,
        }
        assert "proposal" in shown.messages[-2].content


WRONG = {
    "torn": (line(TALK)[:90], "torn or foreign"),
    "foreign": ('{"messages": []}', "torn or foreign"),
    "empty": ("", "torn or foreign"),
    "five numbers": (line(TALK, own="2 1 1 4 2"), "no context"),
    "not numbers": (line(TALK, own="2 1 1 x 2 2"), "no context"),
    "another digit": (line(TALK, own="2 1 1 ４ 2 2"), "no context"),
    "other counts": (line(TALK, theirs="1 2 1 6 1 2"), "counts are"),
    "not worth ten": (line(TALK, own="2 1 1 4 2 3"), "worth 12"),
    "no speaker": (line("hello <eos> YOU: <selection>"), "begins with 'hello'"),
    "twice running": (line("YOU: a <eos> YOU: b <eos> THEM: <selection>"), "twice running"),
    "no selection": (line("YOU: a <eos> THEM: b <eos>"), "<selection>"),
    "no talk": (line("YOU: <selection>"), "at least one utterance"),
    "nothing said": (line("YOU: <eos> THEM: <selection>"), "words and then <eos>"),
    "no end": (line("YOU: a THEM: b <eos> YOU: <selection>"), "words and then <eos>"),
    "an end inside": (line("YOU: a <eos> b <eos> THEM: <selection>"), "words and then <eos>"),
    "five items": (line(TALK, "item0=2 item1=0 item2=2 item0=0 item1=1"), "no output"),
    "wrong order": (line(TALK, "item1=2 item0=0 item2=2 item0=0 item1=1 item2=0"), "no output"),
    "mixed": (line(TALK, "<disagree> " * 5 + "<no_agreement>"), "no output"),
    "too many": (line(TALK, "item0=3 item1=0 item2=2 item0=0 item1=1 item2=0"), "refuses '[propose] books 3"),
    "a tag in the talk": (line(TALK.replace("deal", "[propose]")), "refuses '[message] [propose]'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_file_and_line(folder, name):
    text, told = WRONG[name]
    (folder / "train.txt").write_text(f"{line(TALK)}\n{text}\n{line(TALK)}\n")
    with pytest.raises(ValueError) as error:
        list(LewisDialogues(str(folder)).demonstrations(Deal(), "train"))
    assert str(error.value).startswith(f"{folder / 'train.txt'}, line 2: ") and told in str(error.value)


def test_a_bad_byte_an_empty_file_and_a_short_game_are_told(folder):
    source = LewisDialogues(str(folder))
    with pytest.raises(ValueError, match=r"train\.txt, line 1: the game is over after 4 of 5 actions.*max_actions"):
        list(source.demonstrations(Deal(max_actions=4), "train"))
    (folder / "train.txt").write_bytes(line(TALK).encode() + b"\n" + line(TALK).encode().replace(b"fine", b"f\xffne"))
    with pytest.raises(ValueError, match=r"train\.txt, line 2: not UTF-8"):
        list(read(folder / "train.txt"))
    (folder / "train.txt").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        list(source.demonstrations(Deal(), "train"))


def test_a_folder_without_the_files_another_split_and_another_game_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train.txt and no val.txt"):
        LewisDialogues(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="unknown split 'trian'"):
        list(LewisDialogues(str(folder)).demonstrations(Deal(), "trian"))
    other = Deal()
    other.name = "poker"
    with pytest.raises(ValueError, match="use them with game=deal"):
        list(LewisDialogues(str(folder)).demonstrations(other, "train"))


# --- the measures of benchmarks/show_human.py ------------------------------------------------------------------------


@pytest.fixture
def show_human(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return pytest.importorskip("show_human")


def test_perplexity_counts_words_and_ends_of_both_speakers_only(folder, tmp_path, show_human):
    torch = pytest.importorskip("torch")
    from parley.models.load import load_model
    from parley.models.renderer import Renderer
    from parley.models.tiny import Tiny

    source, game = LewisDialogues(str(folder)), Deal()
    chats = [each.messages for each in source.demonstrations(game, "train")]
    snapshot = Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(tmp_path / "model", chats, 3)
    hardware = OmegaConf.load(ROOT / "conf/hardware/cpu.yaml")
    found = show_human.perplexity(snapshot, source, game, hardware)
    assert (found["tokens"], found["words"], found["ends"], found["lines"], found["unknown"]) == (14, 11, 3, 1, 0)

    # the slow way: one stream by hand, every position's softmax, the counted positions spelt out
    words = Renderer.load(snapshot.path).tokenizer
    stream = (
        "<bos> <|system|> books 2 0 hats 1 6 balls 2 2 <|end|> <|user|> i want the books <|end|> <|assistant|> "
        "[message]"
    )
    stream += " fine , the hat is mine <|end|> <|user|> deal <|end|>"
    ids = words.convert_tokens_to_ids(stream.split())
    counted = [*range(13, 18), *range(20, 27), *range(28, 30)]
    with torch.no_grad():
        logprob = load_model(snapshot.path)(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    mean = sum(logprob[at - 1, ids[at]].item() for at in counted) / len(counted)
    assert found["perplexity"] == pytest.approx(math.exp(-mean), abs=2e-4)
    chosen = show_human.selections(snapshot, source, game)
    assert chosen["selections"] == 1 and chosen["accuracy"] <= chosen["legal"]


# --- the published files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> Path:
    data = Path(os.environ.get("PARLEY_DATA", "")) / "deal_or_no_deal"
    if "PARLEY_DATA" not in os.environ or not (data / "val.txt").is_file():
        pytest.skip("the human dialogues are not here: set PARLEY_DATA to the folder that holds deal_or_no_deal/")
    return data


def test_the_published_validation_file_is_read_whole(published):
    demos = list(LewisDialogues(str(published)).demonstrations(Deal(), "validation"))
    spoken = [message for demo in demos for message, weight in zip(demo.messages, demo.weights, strict=True) if weight]
    talk = [
        message.content.removeprefix("[message] ") for message in spoken if not message.content.startswith("[propose]")
    ]
    assert (len(demos), len(spoken) - len(talk)) == (1087, 844)
    assert (sum(len(text.split()) for text in talk), len(talk)) == (48651, 5392)


def test_published_deals_fit_and_their_two_views_meet(published):
    dialogues = list(read(published / "val.txt"))
    outcomes = {"deal": 844, "<disagree>": 129, "<no_agreement>": 108, "<disconnect>": 6}
    assert Counter(each.outcome for each in dialogues) == outcomes
    for each in dialogues:
        if each.shares is not None:
            assert all(a + b == n for a, b, n in zip(*each.shares, each.context.counts, strict=True))
    views = {(each.context, each.utterances, each.seat) for each in dialogues}
    both = sum((context, said, "second" if seat == "first" else "first") in views for context, said, seat in views)
    assert both >= 0.95 * len(views)


def test_the_published_contexts_are_the_games(published):
    game = Deal(contexts=str(published / "selfplay.txt"), counts="published")
    sizes = {split: len(game.scenarios(split)) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == 4343 and 0.07 < sizes["test"] / 4343 < 0.13
    shared = {each.cluster for each in game.scenarios("train")} & {each.cluster for each in game.scenarios("test")}
    assert not shared


def test_renamed_versions_are_the_same_negotiation(folder):
    dialogue = parse(line(TALK))
    for order in permutations(range(3)):
        other = relabelled(dialogue, order)
        assert (
            other.context.fault() is None
            and relabelled(other, tuple(order.index(item) for item in range(3))) == dialogue
        )
        for player in range(2):
            one, same = ((each.context.values[player], each.shares[player]) for each in (dialogue, other))
            assert points(*one) == points(*same)
        view(Deal(), other)
    swapped = relabelled(dialogue, (1, 0, 2))  # books for hats
    assert swapped.context.counts == (1, 2, 2) and swapped.shares == ((0, 2, 2), (1, 0, 0))
    assert [text.replace("hat", "X").replace("book", "hat").replace("X", "book") for text in swapped.utterances] == [
        *dialogue.utterances
    ]


def test_versions_are_for_training_only_and_differ(folder):
    source = LewisDialogues(str(folder), versions=3)
    trained = list(source.demonstrations(Deal(), "train"))
    plain = list(LewisDialogues(str(folder)).demonstrations(Deal(), "train"))
    assert [each for each in trained if each.id.count("/") == 1] == plain and len(trained) == 3 * len(plain)
    assert len({each.messages for each in trained[:3]}) == 3
    assert [each.id for each in source.demonstrations(Deal(), "validation")] == [
        each.id for each in LewisDialogues(str(folder)).demonstrations(Deal(), "validation")
    ]
    with pytest.raises(ValueError, match="versions is 7"):
        LewisDialogues(str(folder), versions=7)
