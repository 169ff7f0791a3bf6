"""Two judges of one utterance: does it contain the word, does it announce a guess, and is the guess right?

`strict` follows common sense: whole words in any real inflection, and an announcement in free wording. `legacy` is the
published string logic (SPAG, arXiv:2404.10642, as coded), bug for bug: substrings, a literal phrase, at most eight
characters before the guess. The same predicate ends and decides a match.

Both are built once per word and are fast (over 100,000 utterances per second and core): a substring search settles most
texts; regular expressions run only on the rest and have bounded repeats.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias

from .inflection import inflections, published_plural

Ruling: TypeAlias = Literal["attacker", "defender", "breach"]
"""The winner by an utterance; breach: the attacker has broken the rules."""


class Judge(Protocol):
    """Judges single utterances of a match with a known word."""

    def says(self, text: str) -> bool:
        """Whether `text` contains the word."""

    def guess(self, text: str) -> bool | None:
        """Whether the guess that `text` announces is right; None if it announces none."""


def ruling(judge: Judge, seat: str, text: str) -> Ruling | None:
    """The ruling by which an utterance of `seat` ends the match, or None.

    A defender's guess decides first; a defender who says the word otherwise loses. An attacker may neither say the word
    nor announce a guess.
    """
    guess = judge.guess(text)
    if seat == "defender" and guess is not None:
        return "defender" if guess else "attacker"
    if guess is not None or judge.says(text):
        return "attacker" if seat == "defender" else "breach"
    return None


# --- strict ----------------------------------------------------------------------------------------------------------

_SINGLE, _DOUBLE = re.compile("[‘’‚‛´`]"), re.compile("[“”„‟«»]")
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]+")
_ANNOUNCED = re.compile(
    r"\bi\s+(?:(?:now|already|finally|also|do|think\s+i|believe\s+i|guess\s+i)\s+){0,2}know\s+(?:what\s+)?(?:the|your)"
    r"\s+(?:[a-z]+\s+)?word\b(?:\s+(?:that\s+|which\s+)?you(?:'re|'ve|\s+are|\s+have)?\s+\w+(?:\s+(?:of|about|at|for|to)\b)?)?"
)
_CLAUSE_END = re.compile(r"[.,;!?\n()…]|\s-+\s|--+|[–—]")
_HEDGED = re.compile(
    r"\b(?:if|when|once|until|unless|whether|wish|before|you\s+think)\b|(?:n't|\b(?:not|never))\s+(?:think|believe|say|mean|sure|claim)?\s*$"
)
_NAMING = re.compile(r"=|\b(?:is|are|was|be|its|called|named)\b|'s\b|'re\b")
_NOISE = re.compile(r"[^\w\s'\x00-]+|_")
_STOPS = "and or but because since as which that who where when so if not nor isn't no i you for in on with from rather"
_FILLERS = (
    "a an the my your this it that word words answer secret target hidden one just simply certainly definitely "
    "probably surely obviously "
    "clearly perhaps maybe likely really indeed right of course here there then now today already finally well yes ok "
    "okay sorry please "
    "thanks thank oh ah hm got guess"
)
_STOP, _CHATTER = set(_STOPS.split()), set(_FILLERS.split())
MARK = "\x00"


class Strict:
    """Whole words, real inflection, free wording.

    The guess is the last word of the first clause after the announcement that names anything (`It must be an old
    apple, I think`); only one guess counts, so that listing words gains nothing. An announcement without a guess, or
    one that is negated (`I don't think I know the word`) or conditional, does not count.
    """

    def __init__(self, word: str) -> None:
        tokens = [inflections(token) for token in _plain(word).split()]
        if not tokens:
            raise ValueError("the word of a match is empty, expected at least one letter")
        spelled = r"[\s-]+".join(
            "(?:" + "|".join(map(re.escape, sorted(forms, key=len, reverse=True))) + ")" for forms in tokens
        )
        self._word = re.compile(rf"(?<![^\W_])(?:{spelled})(?![^\W_])")
        self._roots = _shortest(tokens[0])

    def says(self, text: str) -> bool:
        text = _plain(text)
        return any(root in text for root in self._roots) and self._word.search(text) is not None

    def guess(self, text: str) -> bool | None:
        text = _plain(text)
        if "know" not in text:
            return None
        for announced in _ANNOUNCED.finditer(text):
            before = _CLAUSE_END.split(text[max(0, announced.start() - 200) : announced.start()])[-1]
            if not _HEDGED.search(before):
                named = _named(self._word.sub(f" {MARK} ", text[announced.end() : announced.end() + 500]))
                if named is not None:
                    return named == MARK
        return None


def _named(tail: str) -> str | None:
    """The last word of the guess that follows an announcement, in which MARK stands for the match's word; None if
    none."""
    for clause in _CLAUSE_END.split(tail):
        _, colon, after = clause.rpartition(":")
        naming = _NAMING.search(after)
        after = after[naming.end() :] if naming else after
        words: list[str] = []
        for word in _NOISE.sub(" ", after).split():
            if word.strip("'") in _STOP:
                break
            words.append(word.strip("'-"))
        words = [word for word in words if word and word not in _CHATTER]
        if words and (colon or naming or len(words) < 4):
            return words[-1]
    return None


@lru_cache(maxsize=8)  # both methods are called on each text
def _plain(text: str) -> str:
    """Lower case, with straight quotes, compatible characters and nothing invisible."""
    if text.isascii():
        return text.lower().replace(MARK, " ")
    shown = unicodedata.normalize("NFKC", _INVISIBLE.sub("", _DOUBLE.sub('"', _SINGLE.sub("'", text))))
    return shown.lower().replace(MARK, " ")


def _shortest(forms: tuple[str, ...]) -> tuple[str, ...]:
    """The forms that contain no other one: a text without these contains none at all."""
    return tuple(form for form in forms if not any(other in form for other in forms if other != form))


# --- legacy ----------------------------------------------------------------------------------------------------------

ANNOUNCEMENT = r"i know the word! it.{1,8}"
_PUBLISHED = re.compile(ANNOUNCEMENT)


class Legacy:
    """The published judge. W, the forms of the word w: w, w + "ing", w + "ed", the plural of its first token, and
    each of these in double quotes, single quotes and backticks.

    An utterance says the word if it contains a form anywhere, as a substring, in lower case. It announces a guess if
    the literal phrase and one to eight characters up to the line's end occur, and the guess is right if a form follows
    immediately. The word is inserted into that pattern unescaped; if that is no valid pattern (the original would have
    crashed) it is escaped.
    """

    def __init__(self, word: str) -> None:
        if not word.strip():
            raise ValueError("the word of a match is empty, expected at least one letter")
        plain = word.lower()
        forms = [plain, plain + "ing", plain + "ed", published_plural(word)]
        self._forms = _shortest((plain, forms[3])) if plain != forms[3] else (plain,)
        wrapped = forms + [f"{quote}{form}{quote}" for quote in "\"'`" for form in forms]
        try:
            self._right = re.compile(f"{ANNOUNCEMENT}(?:{'|'.join(wrapped)})")
        except re.error:
            self._right = re.compile(f"{ANNOUNCEMENT}(?:{'|'.join(map(re.escape, wrapped))})")

    def says(self, text: str) -> bool:
        text = text.lower()
        return any(form in text for form in self._forms)

    def guess(self, text: str) -> bool | None:
        text = text.lower()
        if "i know the word! it" not in text or not _PUBLISHED.search(text):
            return None
        return self._right.search(text) is not None


@lru_cache(maxsize=65536)
def strict(word: str) -> Judge:
    """The strict judge of `word`; ValueError for an empty one."""
    return Strict(word)


@lru_cache(maxsize=65536)
def legacy(word: str) -> Judge:
    """The published judge of `word`; ValueError for an empty one."""
    return Legacy(word)


JUDGES: Mapping[str, Callable[[str], Judge]] = {"strict": strict, "legacy": legacy}
