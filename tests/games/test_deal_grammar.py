"""One grammar validates and parses: what it accepts is what is played."""

import random

import pytest
from parley.games.deal.contexts import allocations
from parley.games.deal.grammar import REASONS, Fault, Proposed, Said, parse
from parley.games.deal.scripts import accepts, spell, stated_split

COUNTS = (2, 1, 3)


def read(text, opened=True, must_propose=False, counts=COUNTS):
    return parse(text, counts, opened=opened, must_propose=must_propose)


@pytest.mark.parametrize(
    "text",
    [
        "[propose] (2 books, 0 hats, 1 balls)",
        "[propose] books 2 hats 0 balls 1",
        "  [PROPOSE]\n(2 Books, 0 HATS, 1 ball) [END]",
        "[propose] 2 book, 0 hat and 1 ball.",
        "[propose] ball 1 book 2 hat 0",
        "[propose] ( 2 books , 0 hats , 1 balls ) [end]",
        "[propose] books: 2, hats: 0, balls: 1",
        "[ propose ] books=2; hats=0; balls=1",
        "[propose] 2books 0hats 1balls",
    ],
)
def test_proposals(text):
    assert read(text) == Proposed((2, 0, 1)) == read(text, must_propose=True)


@pytest.mark.parametrize(
    "style", ["books {} hats {} balls {}", "({} books, {} hats, {} balls)", "{} book {} hat {} ball [END]"]
)
def test_every_share_comes_back(style):
    for share in allocations(COUNTS):
        assert read("[propose] " + style.format(*share)) == Proposed(share)
        assert read(f"[propose] {spell(share)}") == Proposed(share)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "prefix"),
        ("hello", "prefix"),
        ("[END]", "prefix"),
        ("well [message] hello", "prefix"),
        ("message: hello", "prefix"),
        ("[END] [message] hello", "prefix"),
        ("[message] hello [propose] (2 books, 0 hats, 1 balls)", "tags"),
        ("[message] hello [message] again", "tags"),
        ("[propose] (2 books, 0 hats, 1 balls) [message] bye", "tags"),  # original: not noticed within the first line
        ("[propose] (2 books, 0 hats, 1 balls) [propose] (0 books, 0 hats, 1 balls)", "tags"),
        ("[message]", "empty"),
        ("[message]  [END]", "empty"),
        ("[message] [END] hello", "empty"),
        ("[propose] books 1 hats 1 [END] balls 1", "items"),
        ("[propose]", "items"),
        ("[propose] 2 0 1", "items"),
        ("[propose] (2 books, 0 hats)", "items"),
        ("[propose] (2 books, 0 hats, 1 hats)", "items"),
        ("[propose] (2 books, 0 hats, 1 balls, 1 balls)", "items"),
        ("[propose] (2 books, 0 hats, 1 balls) 3", "items"),
        ("[propose] 3 (2 books, 0 hats, 1 balls)", "items"),
        ("[propose] (2 books, 0 what, 1 balls)", "items"),  # original: "hat" was found in "what" and "that"
        ("[propose] books 2 that 0 balls 1", "items"),
        ("[propose] (two books, 0 hats, 1 balls)", "items"),
        ("[propose] (2 books, 0 hats, 1.5 balls)", "items"),
        ("[propose] (2 books, 0 hats, + 1 balls)", "items"),
        ("[propose] (2 books, 0 hats, - 1 balls)", "items"),
        ("[propose] (2 books, 0 hats, ٣ balls)", "items"),
        ("[propose] i want 2 books 0 hats 1 balls", "items"),
        ("[propose] (2 books, 0 hats, 1 balls)\nthank you", "items"),
        ("[propose] books 2 0 hats balls 1", "items"),
        ("[propose] (2 books, 0 hats, -1 balls)", "range"),  # original: parsed as 1
        ("[propose] (3 books, 0 hats, 1 balls)", "range"),
        ("[propose] books 2 hats 0 balls 4", "range"),
        ("[propose] books 2 hats 0 balls " + "9" * 5000, "range"),  # int() would refuse to read it
    ],
)
def test_faults(text, reason):
    assert reason in REASONS
    assert read(text) == Fault(reason)


@pytest.mark.parametrize("numbers", ["1 books .2 hats 0 balls", "books .2 hats 1 balls 0", "2 books 0.0 hats 1 balls"])
@pytest.mark.parametrize("form", ["{}", "({})", "{} [END]"])
def test_A15_a_fraction_is_no_whole_number(numbers, form):
    """Read without its point, .2 hats were 2 hats."""
    assert read("[propose] " + form.format(numbers), (2, 2, 2)) == Fault("items")


def test_A17_what_stands_after_an_end_is_cut():
    assert read("[message] hello [END] and so on") == Said("hello") == read("[message] hello [end] [END]")
    assert read("[message] hello [END] [propose] (2 books, 0 hats, 1 balls)") == Said("hello")
    assert read("[propose] (2 books, 0 hats, 1 balls) [END]\nthank you [message] bye") == Proposed((2, 0, 1))


def test_state_decides_too():
    assert read("[message] hi", must_propose=True) == Fault("must_propose")
    assert read("[propose] books 2 hats 0 balls 1", opened=False) == Fault("too_early")
    assert read("[message] hi", opened=False) == Said("hi")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[message] hi there", "hi there"),
        ("[message]hi [END]", "hi"),
        ("[Message] is it 3 hats [or 2]?", "is it 3 hats [or 2]?"),
        ("[message] two\nlines", "two\nlines"),
    ],
)
def test_messages(text, said):
    assert read(text) == Said(said)


def test_random_text_is_judged_and_never_raises():
    chance = random.Random(0)
    words = [
        "[message]",
        "[propose]",
        "[end]",
        "books",
        "hat",
        "balls",
        "0",
        "1",
        "-2",
        "(",
        ",",
        "what",
        "\x00",
        "½",
        "\ud800",
    ]
    for _ in range(5000):
        move = read(" ".join(chance.choices(words, k=chance.randrange(12))), counts=(1, 1, 1))
        if isinstance(move, Proposed):
            assert all(number in (0, 1) for number in move.share)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("i take books 2 hats 0 balls 1 you get books 0 hats 1 balls 2", (2, 0, 1)),
        ("deal i take books 0 hats 1 balls 2", (0, 1, 2)),
        ("you get books 0 hats 1 balls 2", (2, 0, 1)),
        ("I want 2 books, 0 hats and 1 ball, you can have the rest", (2, 0, 1)),
        (
            "i take books 3 hats 0 balls 1 you get books 0 hats 1 balls 2",
            (2, 0, 1),
        ),  # the impossible side is not believed
        ("i take books 2 balls 1", None),
        ("books 2 hats 0 balls 1", None),
        ("hello", None),
    ],
)
def test_splits_that_scripts_read_in_messages(text, share):
    assert stated_split(text, COUNTS) == share


def test_acceptance():
    assert accepts("deal i take") and accepts("OK") and not accepts("no deal")
