"""The small world: concepts with their cues, and the three kinds of sentences about a cue.

    it is red            (tell)        what is red ?            (ask)        apple is red            (name)

Every cue belongs to at least five concepts, so that a single cue never identifies a word. The sentences use 209 cues,
320 concepts and some thirty other words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

from ..base import Message

_WORD = re.compile("[a-z]+")
PREDICATES: Mapping[str, str] = {
    "kind": "is a kind of",
    "is": "is",
    "in": "is in the",
    "has": "has",
    "can": "can",
    "of": "is made of",
    "for": "is for",
}


@dataclass(frozen=True, slots=True)
class Lexicon:
    """cues: concept -> its cues;  kinds: cue -> its kind (a key of PREDICATES);  owners: cue -> the concepts that have
    it."""

    cues: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]
    owners: Mapping[str, tuple[str, ...]]

    def say(self, subject: str, cue: str) -> str:
        """`it has seeds` for the subject it and the cue seeds."""
        return f"{subject} {PREDICATES[self.kinds[cue]]} {cue}"

    def found(self, text: str) -> list[str]:
        """The cues in `text`, in order, each once."""
        return list(dict.fromkeys(word for word in _WORD.findall(text.lower()) if word in self.kinds))

    def named(self, text: str) -> list[str]:
        """The concepts in `text`, in order, each once."""
        return list(dict.fromkeys(word for word in _WORD.findall(text.lower()) if word in self.cues))

    def fitting(self, evidence: Iterable[str], excluded: Iterable[str] = ()) -> list[str]:
        """The concepts that have the most of the cues in `evidence`; all if it is empty. None of them is in
        `excluded`."""
        counts: Counter[str] = Counter(concept for cue in evidence for concept in self.owners[cue])
        gone = set(excluded)
        left = {concept: count for concept, count in counts.items() if concept not in gone}
        best = max(left.values(), default=0)
        return (
            [concept for concept, count in left.items() if count == best]
            if left
            else [each for each in self.cues if each not in gone]
        )


@cache
def lexicon() -> Lexicon:
    """The lexicon of this package. ValueError names a line that is no entry."""
    cues: dict[str, tuple[str, ...]] = {}
    kinds: dict[str, str] = {}
    owners: dict[str, list[str]] = defaultdict(list)
    for line in files(__package__).joinpath("lexicon.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        concept, _, rest = line.partition(": ")
        own = [(cue, kind) for kind, *group in map(str.split, rest.split(", ")) for cue in group]
        if (
            concept in cues
            or not own
            or any(kind not in PREDICATES or kinds.setdefault(cue, kind) != kind for cue, kind in own)
        ):
            raise ValueError(
                f"lexicon.txt: {line!r}, expected a new concept, a colon and groups of a kind and its cues"
            )
        cues[concept] = tuple(cue for cue, _ in own)
        for cue, _ in own:
            owners[cue].append(concept)
    return Lexicon(cues, kinds, {cue: tuple(concepts) for cue, concepts in owners.items()})


LISTED = 8  # maximum number of concepts that a row names for one cue


def _owners(concept: str, cue: str, chance: Random) -> list[str]:
    """`concept` and some others with `cue`, in random order."""
    others = [each for each in lexicon().owners[cue] if each != concept]
    found = [concept, *chance.sample(others, min(LISTED - 1, len(others)))]
    return chance.sample(found, len(found))


def associations(concept: str, chance: Random, rows: int) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Associations of `concept`, as `rows` short chats to imitate, alternating between five forms:

    cues apple -> red seeds fruit eating round orchard crunchy         it has seeds . it is red -> it is apple
    word apple -> apple is in the orchard                              seeds red orchard -> it is apple
                                                                       with red -> cherry apple heart tomato

    The first lists all cues, the last `LISTED` concepts of one cue, this one among them, the others have one to five
    cues, in random order. No row is a turn of the game. Each has a kind: `tell` on the left (from the word to its
    cues), and `name` on the right.
    """
    world = lexicon()
    cues = world.cues[concept]
    for row in range(rows):
        own = chance.sample(cues, chance.randint(2, 5))
        asked, answer = (
            (f"cues {concept}", " ".join(chance.sample(cues, len(cues)))),
            (" . ".join(world.say("it", cue) for cue in own), f"it is {concept}"),
            (f"word {concept}", world.say(concept, own[0])),
            (" ".join(own), f"it is {concept}"),
            (f"with {own[0]}", " ".join(_owners(concept, own[0], chance))),
        )[row % 5]
        kind = ("tell", "name", "tell", "name", "name")[row % 5]
        yield kind, (Message("system", "facts"), Message("user", asked), Message("assistant", answer))
