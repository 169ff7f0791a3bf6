"""Word lists and their splits, forms of words, and the small world."""

from collections import defaultdict
from random import Random

import pytest
from parley.games.splits import SPLITS
from parley.games.taboo import Taboo, legacy, strict
from parley.games.taboo.inflection import inflections, lemma, published_plural
from parley.games.taboo.lexicon import PREDICATES, associations, lexicon
from parley.games.taboo.scripts import SMALL_TALK, VAGUE
from parley.games.taboo.words import read, targets, top

WORLD = lexicon()


def words_of(game: Taboo, split: str) -> list[str]:
    return [scenario.data["word"] for scenario in game.scenarios(split)]


# The lexicon


def test_the_lexicon_is_large_and_every_cue_is_shared():
    assert len(WORLD.cues) >= 300 and len(WORLD.kinds) >= 200
    assert all(len(owners) >= 5 for owners in WORLD.owners.values())
    assert all(5 <= len(cues) <= 12 and len(set(cues)) == len(cues) for cues in WORLD.cues.values())
    for cue, owners in WORLD.owners.items():
        assert [concept for concept, cues in WORLD.cues.items() if cue in cues] == list(owners)


def test_all_cues_of_a_concept_tell_it_from_every_other():
    sets = {concept: set(cues) for concept, cues in WORLD.cues.items()}
    assert [(one, other) for one in sets for other in sets if one != other and sets[one] <= sets[other]] == []


def test_nothing_that_scripts_say_is_a_form_of_a_concept_by_accident():
    """Neither judge may find a word in a cue, another concept or the words around them (strict: none at all)."""
    others = "it what no . ? i know the word! facts cues error empty refusal attacker defender"
    frames = [*PREDICATES.values(), *SMALL_TALK, *VAGUE, others]
    said = " , ".join([*WORLD.kinds, *frames])
    for concept in WORLD.cues:
        assert not strict(concept).says(said), concept
        assert not strict(concept).says(" , ".join(other for other in WORLD.cues if other != concept)), concept


def test_sentences():
    assert [WORLD.say("it", cue) for cue in ("fruit", "red", "orchard", "seeds", "eating", "grow", "wood")] == [
        "it is a kind of fruit",
        "it is red",
        "it is in the orchard",
        "it has seeds",
        "it is for eating",
        "it can grow",
        "it is made of wood",
    ]
    assert WORLD.found("It is RED, and what has seeds? red") == ["red", "seeds"] and WORLD.named(
        "no, is it apple?"
    ) == ["apple"]


def test_what_fits_is_what_has_most_of_the_cues():
    chance = Random(0)
    for _ in range(300):
        concept = chance.choice(list(WORLD.cues))
        evidence = chance.sample(WORLD.cues[concept], 3) + chance.sample(list(WORLD.kinds), chance.randint(0, 1))
        excluded = set(chance.sample(list(WORLD.cues), 3))
        score = {
            each: sum(cue in cues for cue in evidence) for each, cues in WORLD.cues.items() if each not in excluded
        }
        best = [each for each in score if score[each] == max(score.values())]
        assert sorted(WORLD.fitting(evidence, excluded)) == sorted(best)
    assert WORLD.fitting([], {"apple"}) == [each for each in WORLD.cues if each != "apple"]


def test_associations_are_true_and_go_both_ways():
    for concept, cues in list(WORLD.cues.items())[::15]:
        rows = list(associations(concept, Random(1), 12))
        assert len(rows) == 12 and len(set(rows)) > 6
        assert [kind for kind, _ in rows] == ["tell", "name", "tell", "name", "name"] * 2 + ["tell", "name"]
        for number, (_, (system, user, assistant)) in enumerate(rows):
            assert (system.role, system.content, user.role, assistant.role) == ("system", "facts", "user", "assistant")
            asked, answer, told = user.content, assistant.content, WORLD.found(f"{user.content} {assistant.content}")
            assert set(told) <= set(cues) and len(told) == (len(cues), len(told), 1, len(told), 1)[number % 5]
            named = WORLD.named(answer)
            sentences = " . ".join(WORLD.say("it", cue) for cue in told)
            assert (asked, answer) == (
                (f"cues {concept}", " ".join(told)),
                (sentences, f"it is {concept}"),
                (f"word {concept}", WORLD.say(concept, told[0])),
                (" ".join(told), f"it is {concept}"),
                (f"with {told[0]}", " ".join(named)),
            )[number % 5]
            if number % 5 == 4:
                assert (
                    concept in named
                    and set(named) <= set(WORLD.owners[told[0]])
                    and len(named) == min(8, len(WORLD.owners[told[0]]))
                )


def test_associations_of_a_split_are_of_its_words_only():
    game = Taboo()
    rows = list(game.associations("test"))
    assert len(rows) == 12 * len(game.scenarios("test")) == 6 * len(list(game.associations("test", rows=2)))
    assert rows == list(Taboo(prompt="compact").associations("test"))
    named = {name for _, (_, user, assistant) in rows for name in WORLD.named(f"{user.content} {assistant.content}")}
    assert named > set(words_of(game, "test"))  # and others that share a cue
    for word, first in zip(words_of(game, "test"), range(0, len(rows), 12), strict=True):
        assert all(
            word in f"{user.content} {assistant.content}".split()
            for _, (_, user, assistant) in rows[first : first + 12]
        )
    with pytest.raises(ValueError, match="only the lexicon's words have associations"):
        next(Taboo(words="top", limit=500).associations("test"))


# Lists and splits


@pytest.mark.parametrize("words", ["lexicon", "top"])
def test_splits_partition_the_words_and_keep_lemmas_together(words):
    game = Taboo(words=words, limit=5000)
    found = {split: words_of(game, split) for split in SPLITS}
    every = [word for split in SPLITS for word in found[split]]
    assert sorted(every) == sorted(targets(words, 5000))
    owner = defaultdict(set)
    for split in SPLITS:
        for scenario in game.scenarios(split):
            assert scenario.id == f"taboo:{scenario.data['word']}"
            owner[lemma(scenario.data["word"])].add(split)
            owner[scenario.cluster].add(split)
    assert all(len(splits) == 1 for splits in owner.values())
    assert 0.15 < len(found["test"]) / len(every) < 0.25 and 0.05 < len(found["validation"]) / len(every) < 0.15


def test_a_words_place_does_not_depend_on_the_list():
    small, large = (Taboo(words="top", limit=limit) for limit in (400, 3000))
    for split in SPLITS:
        assert set(words_of(small, split)) <= set(words_of(large, split))
    other = Taboo(split_seed=1)
    assert set(words_of(other, "test")) != set(words_of(Taboo(), "test"))
    held_out = set(words_of(Taboo(), "test")), set(words_of(Taboo(test=0.3), "test"))
    assert held_out[0] < held_out[1]


def test_scripts_only_for_known_words():
    assert (
        set(Taboo().scripts()) == {"naive", "fair", "skilled", "demo"} and Taboo(words="top", limit=300).scripts() == {}
    )


def test_the_frequent_words():
    words = top(50_000)
    assert len(words) == len(set(words)) == 50_000 and words[:1000] == top(1000)
    assert all(word.isascii() and word.isalpha() and word == word.lower() and len(word) > 2 for word in words)
    assert not {"the", "and", "you", "because", "your", "were"} & set(words)
    assert {"time", "water", "apple", "hope", "house", "elephant"} <= set(words)


def test_a_file_of_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("apple\n\n  ice   cream \nApple\r\nKuchen\n" + "".join(f"word{number}\n" for number in range(60)))
    assert read(path)[:3] == ["apple", "ice cream", "Kuchen"] and len(read(path)) == 63
    game = Taboo(words=str(path))
    assert (
        sorted(word for split in SPLITS for word in words_of(game, split)) == sorted(read(path))
        and game.scripts() == {}
    )
    path.write_text("apple\npear\x1b[31m\n")
    with pytest.raises(ValueError, match=r"words.txt, line 2: .*expected one word of at most 60 printable"):
        Taboo(words=str(path))
    path.write_text("apple\n")
    with pytest.raises(ValueError, match=r"nothing falls into the split .*has too few words"):
        [Taboo(words=str(path)).scenarios(split) for split in SPLITS]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Taboo(words="nowhere.txt")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        Taboo().scenarios("dev")


# Forms


FORMS = {
    "run": "ran run running runs",
    "ran": "ran run running runs",
    "mouse": "mice mouse",
    "children": "child children",
    "study": "studied studies study studying",
    "happy": "happier happiest happy",
    "apple": "apple apples",
    "qwertzel": "qwertzel qwertzels",
}


@pytest.mark.parametrize("word", FORMS)
def test_inflections(word):
    assert set(FORMS[word].split()) <= set(inflections(word)) and inflections(word.upper()) == inflections(word)


def test_only_a_word_of_three_letters_that_the_dictionary_lacks_gets_a_plural():
    """Shorter ones, those that end in s and those with other marks stand for themselves."""
    assert inflections("zq") == ("zq",) and inflections("qxz") == ("qxz", "qxzs")
    assert inflections("qxs") == ("qxs",) and inflections("q-xz") == ("q-xz",)


def test_the_top_words_have_three_letters_at_least():
    lengths = {len(word) for word in top(3000)}
    assert min(lengths) == 3 and len(lengths) > 5


def test_no_derivation_is_an_inflection():
    for word, other in {
        "happy": "happiness",
        "art": "artist",
        "bake": "baker",
        "friend": "friendly",
        "apple": "pineapple",
    }.items():
        assert other not in inflections(word)


# TextBlob's plurals, as the published judge takes them from it
PLURALS = {
    "I": "is", "his": "their", "this": "these", "happy": "happies", "apple": "apples", "mouse": "mice",
    "woman": "women", "box": "boxes",
    "wolf": "wolves", "knife": "knives", "money": "monies", "day": "days", "crisis": "crises", "sheep": "sheep",
    "octopus": "octopodes",
    "person": "people", "stadium": "stadia", "potato": "potatoes", "goldfish": "goldfish", "foot": "feet",
    "ice cream": "ices",
    "dog's": "dogs", "church": "churches", "water": "water", "grandchild": "grandchildren", "focus": "foci",
    "Mary": "maries",
}  # fmt: skip


@pytest.mark.parametrize("word", PLURALS)
def test_published_plurals(word):
    assert published_plural(word) == PLURALS[word]
    assert legacy(word).says(f"x{PLURALS[word]}x".lower())
