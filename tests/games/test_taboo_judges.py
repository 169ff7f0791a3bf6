"""Both judges on a table of cases: its labels were typed from the published rules and from common sense before the judges existed."""


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
    ("I", D, "we play", "", A),
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
