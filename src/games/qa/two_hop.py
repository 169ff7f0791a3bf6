"""Two-hop questions over documents that come with each scenario: small enough for a tiny model trained from scratch.

"where does what ann likes come from ?" is answered by two of the scenario's documents, "ann likes tea ." and "tea comes
from india .". Who likes what, and where it comes from, is drawn anew for each scenario: nothing can be known by heart,
the agent has to search and to copy. A question's combination of person, thing and land is held out as a whole; each of
the words stands in every split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from ...system.seeds import rng
from ..base import Json, Request, Scenario, Script
from ..splits import chosen, fine, split

PEOPLE = (
    "ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ida", "joe", "kim", "lee", "mia", "ned", "oda", "pat",
)  # fmt: skip
THINGS = (
    "tea", "coffee", "maize", "rice", "wine", "cocoa", "sugar", "cotton", "wool", "amber", "silk", "salt",
)  # fmt: skip
LANDS = (
    "india", "brazil", "mexico", "china", "france", "ghana", "cuba", "egypt", "wales", "latvia", "japan", "chad",
)  # fmt: skip
TASK = "hotpotqa"  # short answers, exact match
FACTS = 5  # pairs of documents of a scenario, one of which the question is about


class TwoHop:
    """All combinations of person, thing and land: 2,304 questions.

    validation, test   shares of the combinations
    seed               of the documents and the splits; not the run's seed, so that runs stay comparable
    """

    files: Mapping[str, str] = {}
    tasks = (TASK,)

    def __init__(self, validation: float = 0.05, test: float = 0.13, seed: int = 0) -> None:
        if validation <= 0 or test <= 0 or validation + test >= 1:
            raise ValueError(f"TwoHop: validation={validation}, test={test}: expected shares above 0 that leave train")
        self.shares, self.seed = (validation, test), seed

    def scenarios(self, split: str) -> Sequence[Scenario]:
        return chosen(self._splits, split, "give larger shares")

    def scripts(self) -> Mapping[str, Script]:
        """expert (searches twice and answers), sloppy (goes wrong now and then), guesser (any land, at once)."""
        return {"expert": Searcher(0.0), "sloppy": Searcher(0.3), "guesser": _guess}

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[Scenario]]:
        names = [f"{who}-{what}-{where}" for who in PEOPLE for what in THINGS for where in LANDS]
        found = split({name: name for name in names}, self.seed, *self.shares, place=fine)
        return {key: tuple(self._scenario(name) for name in names) for key, names in found.items()}

    def _scenario(self, name: str) -> Scenario:
        who, what, where = name.split("-")
        drawn = rng(self.seed, "documents", name)
        columns = [
            [own, *drawn.sample([other for other in words if other != own], FACTS - 1)]
            for own, words in ((who, PEOPLE), (what, THINGS), (where, LANDS))
        ]
        documents = [_document(person, f"{person} likes {thing} .") for person, thing, _ in zip(*columns, strict=True)]
        documents += [_document(thing, f"{thing} comes from {land} .") for _, thing, land in zip(*columns, strict=True)]
        drawn.shuffle(documents)
        asked = f"where does what {who} likes come from ?"
        data = {"task": TASK, "question": asked, "answers": [where], "documents": documents}
        return Scenario(f"two-hop:{name}", data, f"two-hop:{name}")


def _document(title: str, text: str) -> dict[str, Json]:
    return {"title": title, "text": text}


@dataclass(frozen=True, slots=True)
class Searcher:
    """Follows what it finds; with probability `slip` it answers or searches at random instead."""

    slip: float

    def __call__(self, request: Request, own: Random, persona: Random) -> str:
        seen = request.observation or {}
        who = seen["question"].split()[3]
        if own.random() < self.slip:
            return own.choice((_guess(request, own, persona), f"Action: search[ {own.choice(PEOPLE)} ]"))
        for _, _, found in reversed(seen["history"]):
            match found.split():
                case [_, "comes", "from", land, "."]:
                    return f"Action: finish[ {land} ]"
                case [name, "likes", thing, "."] if name == who:
                    return f"Action: search[ {thing} ]"
        return f"Action: search[ {who} ]"


def _guess(request: Request, own: Random, persona: Random) -> str:
    return f"Action: finish[ {own.choice(LANDS)} ]"
