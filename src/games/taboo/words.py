"""Target words: the lexicon's, the most frequent of English, or those of a file; and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from ...system.files import InputError, read_text
from ..base import Scenario
from ..splits import fine
from ..splits import split as splits_of
from .inflection import lemma
from .lexicon import lexicon

TOP = 50_000
LONGEST = 60  # characters of a word that is read from a file


def targets(source: str, limit: int | None = None) -> Sequence[str]:
    """The first `limit` words of `source`: lexicon, top, or the path of a file with one word a line."""
    if source == "lexicon":
        return list(lexicon().cues)[:limit]
    if source == "top":
        return top(TOP if limit is None else limit)
    return read(source)[:limit]


@cache
def top(count: int) -> Sequence[str]:
    """The `count` most frequent words of English by wordfreq, without stop words (those of the stop-words library).

    Words are of at least three plain letters. The published list was the 50,000 most frequent of COCA, stop words
    removed; wordfreq's corpus is another one, and a word can be had in several inflected forms here as there.
    """
    from stop_words import get_stop_words
    from wordfreq import top_n_list

    stop = {word.lower() for word in get_stop_words("en")}
    ranked = top_n_list("en", 2 * count + 5000)
    return tuple(word for word in ranked if word.isascii() and word.isalpha() and len(word) > 2 and word not in stop)[
        :count
    ]


def read(path: str | Path) -> list[str]:
    """The words of a file, one a line, in its order; blank lines and words that differ only in case from an earlier one
    are left out. InputError names a line that is too long or not printable."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        word = " ".join(line.split())
        if len(word) > LONGEST or not word.isprintable():
            raise InputError(
                f"{path}, line {number}: {line[:80]!r}, expected one word of at most {LONGEST} printable characters"
            )
        if word:
            found.setdefault(word.lower(), word)
    return list(found.values())


def split(words: Iterable[str], seed: int, validation: float, test: float) -> dict[str, tuple[Scenario, ...]]:
    """Scenarios of each split, shuffled. A word's place depends on nothing but its lemma, the seed and the two shares,
    so that what is held out of one list is held out of every other, inflected forms included."""
    clusters = {word: f"taboo:{lemma(word)}" for word in words}
    splits = splits_of(clusters, seed, validation, test, fine)
    return {
        name: tuple(Scenario(f"taboo:{word}", {"word": word}, clusters[word]) for word in found)
        for name, found in splits.items()
    }
