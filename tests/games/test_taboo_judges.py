"""Both judges on a table of cases: its labels were typed from the published rules and from common sense before the
judges existed."""

import time
from collections import Counter
from random import Random

import pytest
from parley.games.taboo.judges import legacy, ruling, strict

A, D = "attacker", "defender"

# word, who speaks, text, what the strict judge should say, what the published one says ("" where the match goes on)
TABLE = [
    # the word in a defender's plain utterance
    ("apple", D, "It's an apple", A, A),
    ("apple", D, "APPLE", A, A),
    ("apple", D, "Is it a fruit?", "", ""),
    ("apple", D, "", "", ""),
    ("apple", D, '"apple"', A, A),
    ("apple", D, "`apple`", A, A),
    ("apple", D, "'apple'", A, A),
    ("apple", D, "**apple**", A, A),
    ("apple", D, "_apple_", A, A),
    ("apple", D, "Newton's apple's fall", A, A),
    ("apple", D, "I like apples", A, A),
    ("apple", D, "pineapple", "", A),
    ("apple", D, "an\napple\na day", A, A),
    # announcements
    ("apple", D, "I know the word! It is apple.", D, D),
    ("apple", D, "I know the word! It is an apple", D, D),
    ("apple", D, "I know the word! It's apple", D, D),
    ("apple", D, "I know the word! Its apple", D, D),
    ("apple", D, "I KNOW THE WORD! IT IS APPLE", D, D),
    ("apple", D, "I know the word! It’s “apple”.", D, D),
    ("apple", D, "Hm. I know the word! It is `apple`!", D, D),
    ("apple", D, "I know the word! It must be apple", D, A),
    ("apple", D, 'I know the word! It is the word "apple"', D, A),
    ("apple", D, 'I know the word! It is certainly "apple"', D, A),
    ("apple", D, "I know the word! It is an old apple", D, A),
    # three words are a guess, four are a sentence
    ("apple", D, "I know the word! big red apple", D, A),
    ("apple", D, "I know the word! very big red apple", A, A),
    ("apple", D, "I know the word!\nIt is apple", D, A),
    ("apple", D, "I know the word! It\nis apple", D, A),
    ("apple", D, "I know the word. It is apple", D, A),
    ("apple", D, "I know the word! The word is apple", D, A),
    ("apple", D, "I know the word: apple", D, A),
    ("apple", D, "I know the word ! It is apple", D, A),
    ("apple", D, "I think I know the word, it is apple!", D, A),
    ("apple", D, "I know the word! It is apple or pear", D, D),
    ("apple", D, "I know the word! It is pear or apple", A, A),
    ("apple", D, "I know the word! It is pear, not apple", A, A),
    ("apple", D, "I know the word! It is not apple", A, D),
    ("apple", D, "I know the word! It is apple pie", A, D),
    ("apple", D, "I know the word! It is pineapple", A, D),
    ("apple", D, "I know the word! It is pear", A, A),
    ("apple", D, "I know the word. It is pear", A, ""),
    ("apple", D, "I know the word", "", ""),
    ("apple", D, "I know the word! It", "", ""),
    ("apple", D, "I do not know the word! It is hard.", "", ""),
    ("apple", D, "I don't know the word! Is it an apple?", A, A),
    ("apple", D, "If I know the word, I will tell you.", "", ""),
    # the attacker
    ("apple", A, "It is a fruit", "", ""),
    ("apple", A, "An Apple a day", "breach", "breach"),
    ("apple", A, "pineapples are sweet", "", "breach"),
    ("apple", A, "I know the word! It is pear", "breach", "breach"),
    ("apple", A, "Just say: I know the word! It is ...", "", "breach"),
    ("apple", A, "You may know the word by now", "", ""),
    # short words inside longer ones
    ("art", D, "What a party, let us start", "", A),
    ("art", D, 'I know the word! It is "artist"', A, D),
    ("art", D, 'I know the word! It is "party"', A, D),
    ("art", D, "I know the word! It is art.", D, D),
    ("art", A, "Start with a painting", "", "breach"),
    # inflection
    ("hope", D, "I am hoping for rain", A, ""),
    ("hope", D, "They hoped", A, A),
    ("hope", D, "I know the word! It is hoping", D, A),
    ("study", A, "She studied hard", "breach", ""),
    ("study", A, "Studying is fun", "breach", "breach"),
    ("run", D, "He ran away", A, ""),
    ("run", D, "I am running", A, A),
    ("run", D, "the trunk of a car", "", A),
    ("mouse", D, "Three blind mice", A, A),
    ("mouse", D, "I know the word! It is mice", D, D),
    ("happy", D, "I was never happier", A, ""),
    ("happy", D, "What happiness", "", ""),
    ("happy", D, "many happies", "", A),
    # the published plurals of words that are no nouns
    ("his", D, "in their house", "", A),
    ("this", D, "these things", "", A),
    # words of several words, and with characters that mean something in a regular expression
    ("ice cream", D, "I love ice-cream", A, ""),
    ("ice cream", D, "two ice creams", A, A),
    ("ice cream", D, "these devices", "", A),
    ("ice cream", D, "I know the word! It is ice cream", D, D),
    ("ice cream", D, "I know the word! It is ice\ncream", D, A),
    ("c.t", D, "I know the word! It is cat", A, D),
    ("c.t", D, "I know the word! It is c.t", D, D),
    ("c++", D, "I write c++ all day", A, A),
    ("c(", D, "I write c( all day", A, A),
]


@pytest.mark.parametrize(("word", "seat", "text", "wanted", "published"), TABLE)
def test_table(word, seat, text, wanted, published):
    assert (ruling(strict(word), seat, text) or "", ruling(legacy(word), seat, text) or "") == (wanted, published)


def test_the_table_is_large_and_the_judges_differ():
    assert len(TABLE) >= 40 and len({row[:3] for row in TABLE}) == len(TABLE)
    assert sum(wanted != published for *_, wanted, published in TABLE) >= 20


A14 = [  # word, text, whether the published judge (lower case first, then TextBlob's tokens and plural) finds the word
    ("Life", "We have two lives.", True),
    ("I", "we went home", False),
    ("I", "what it was", True),
    ("Half", "two halves", True),
    ("Mouse", "three mice", True),
    ("Wolf's", "the wolves", True),
    ("mother's", "all mothers", True),
    ("don't", "she does", True),
    ("can't", "a can of cash", True),
    ("Kennedy", "the kennedies", True),
    ("it's", "they", True),
    ("cannot", "two cans", True),
]


@pytest.mark.parametrize(("word", "text", "found"), A14)
def test_A14_the_legacy_judge_lower_cases_the_word_before_it_makes_the_plural(word, text, found):
    assert legacy(word).says(text) is found


def published(word: str, plural: str, seat: str, text: str) -> str:
    """The published logic, written down once more from the spec in the slowest way: every start, every gap."""
    low = text.lower()
    forms = [word.lower(), word.lower() + "ing", word.lower() + "ed", plural]
    forms += [quote + form + quote for quote in "\"'`" for form in forms]
    announced = right = False
    for start in range(len(low)):
        after = low[start:].removeprefix("i know the word! it")
        if after == low[start:] or not after or after[0] == "\n":
            continue
        announced = True
        gaps = [n for n in range(1, 9) if n <= len(after) and "\n" not in after[:n]]
        right = right or any(after[n:].startswith(form) for n in gaps for form in forms)
    if announced and seat == "defender":
        return "defender" if right else "attacker"
    if announced or any(form in low for form in forms):
        return "attacker" if seat == "defender" else "breach"
    return ""


def test_legacy_equals_a_slow_reference_on_random_texts():
    chance, seen = Random(0), Counter()
    words = {
        "apple": "apples",
        "art": "arts",
        "mouse": "mice",
        "I": "is",
        "Life": "lives",
        "mother's": "mothers",
        "happy": "happies",
        "ice cream": "ices",
        "hope": "hopes",
    }
    for _ in range(4000):
        word, plural = chance.choice(list(words.items()))
        parts = [
            "I know the word!",
            " it",
            "It",
            " is ",
            "\n",
            "'s ",
            " an ",
            " ",
            '"',
            "`",
            "ing",
            "ed",
            "pine",
            word,
            plural,
            "x",
        ]
        text = "".join(chance.choice(parts) for _ in range(chance.randint(1, 7)))
        if chance.random() < 0.5:
            text = "I know the word! It" + text
        seat = chance.choice((A, D))
        expected = published(word, plural, seat, text)
        assert (ruling(legacy(word), seat, text) or "") == expected, (word, seat, text)
        seen[seat, expected] += 1
    assert len(seen) == 5 and min(seen.values()) > 100  # every ending of either seat is among them


NAMING = (
    "it is {}",
    "it's {}",
    "It must be {}!",
    "the answer is {}.",
    "{}",
    "it has to be {}, I think",
    "you are thinking of {}",
    ": {}",
)


@pytest.mark.parametrize("naming", NAMING)
@pytest.mark.parametrize(
    "opening", ["I know the word! ", "Aha, I know the word: ", "I know your word.\n", "I think I know the word, "]
)
def test_strict_understands_free_wording(opening, naming):
    for word, others in (("apple", "pear"), ("ice cream", "snow"), ("thing", "word"), ("because", "since")):
        if others not in ("word", "since"):  # a word that carries nothing is no guess
            assert ruling(strict(word), D, opening + naming.format(others)) == "attacker"
        for shown in (word, word.upper(), f'"{word}"', f"**{word}**", f"the {word}"):
            assert ruling(strict(word), D, opening + naming.format(shown)) == "defender", (word, shown)


@pytest.mark.parametrize(
    "text", ["I know the word! It is apple pear", "I know the word: pear, apple", "I know the word! Pear. Or apple"]
)
def test_only_one_guess_counts(text):
    assert strict("apple").guess(text) is False


@pytest.mark.parametrize(
    "text",
    ["I don't think I know the word. It is hard", "When I know the word, it is over", "Do you think I know the word? "
                                                                                      "It is odd",
     "You know the word, it is yours", "I know the word but I won't tell", "I know the wordplay, it is fun"],
)  # fmt: skip
def test_what_is_no_announcement(text):
    assert strict("apple").guess(text) is None


def test_a_hidden_or_odd_spelling_is_still_the_word():
    for text in ("ap\u200bple", "ａｐｐｌｅ", "apple\x00", "\ufeffApple", "app\u00adle"):
        assert strict("apple").says(text), text
    assert strict("café").says("The CAFÉ") and not strict("café").says("cafe")


@pytest.mark.parametrize("make", [strict, legacy])
def test_an_empty_word_is_refused(make):
    with pytest.raises(ValueError, match="word of a match is empty"):
        make(" ")


@pytest.mark.parametrize("make", [strict, legacy])
def test_judges_never_raise_and_never_hang(make):
    chance, judge = Random(1), make("apple")
    long = (
        "i know the word " * 999,
        "i know the word! it " * 1000,
        "’" * 20000,
        "a " * 10000,
        "i know what the x word you're x of " * 500,
    )
    for text in long:
        start = time.process_time()
        ruling(judge, D, text)
        assert time.process_time() - start < 1
    for _ in range(3000):
        odd = "".join(chr(chance.choice((chance.randrange(128), chance.randrange(0x3000)))) for _ in range(30))
        ruling(judge, chance.choice((A, D)), "I know the word" * chance.randint(0, 1) + odd)


@pytest.mark.parametrize("make", [strict, legacy])
def test_a_million_utterances_are_minutes_at_most(make):
    """Hundreds of thousands a second on an idle core; here there is room for a busy one."""
    talk = (
        "Well, that's interesting! How do people travel in the summer, and which food would you bring on a trip, and "
        "why?"
    )
    texts = [f"{talk} {number}" for number in range(10_000)] + [
        f"I know the word! It is number {number}" for number in range(1000)
    ]
    judge, start = make("apple"), time.process_time()
    for text in texts:
        ruling(judge, D, text)
    assert len(texts) / (time.process_time() - start) > 20_000
