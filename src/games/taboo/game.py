"""Adversarial Taboo as in SPAG (arXiv:2404.10642, after Yao et al. 2021).

The attacker knows a target word, the defender does not. They alternate, the attacker first, with `turns` utterances
each. The attacker wins if the defender says the word in an ordinary utterance, or guesses wrong; the defender wins by
announcing the right word ("I know the word! It is ..."). The attacker breaks the rules by saying the word or announcing
a guess. Two judges rule on every utterance, and both rulings are recorded (in the metrics, and in the marks of the
decisive reply); the one named by `judge` ends and decides the match. An empty reply or a refusal is illegal and retried
up to `retries` times.

Outcomes: attacker, defender, tie, breach (the attacker broke the rules; blames), abort (illegal replies; blames),
context (the view outgrew the model; blames). `scoring` defines the payoffs.

Version history: 1; 2: the legacy judge lower-cases the word before forming the plural.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from ...system.seeds import rng
from ..base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Match,
    Message,
    Options,
    Out,
    Reply,
    Request,
    Scenario,
    Script,
    Turns,
    legal,
)
from ..splits import chosen
from . import lexicon as world
from . import words as lists
from .guide import TabooGuide
from .inflection import inflections
from .judges import JUDGES, ruling
from .layouts import OPTIONS, PUBLISHED
from .prompts import Brief, Chat, Compact, Form, Reason
from .scoring import METRICS, ROLES, Tally, result
from .scripts import SCRIPTS

FORMS: Mapping[str, Form] = {"chat": Chat, "compact": Compact, **PUBLISHED}


class Taboo:
    """The game.

    words       lexicon (a small world of concepts, with scripts), top (the most frequent words of English), or the path
                of a file with one word per line
    limit       number of words, from the top of the list; None: all (top has 50,000)
    judge       strict (common sense) or legacy (the published string logic): ends and decides the match
    breach      loss (a rule break loses) or void (as published: no payoffs)
    prompt      chat, compact (few words, for tiny models), spag (the published training layouts, drawn once for each
                seat), spag_utterance (drawn anew for each utterance, as published), spag_rollout (the published play)
    turns       utterances of each side
    retries     retry requests after an empty reply before the match is aborted
    validation  share of words held out for validation; test: share for the test
    split_seed  selects the held-out words
    """

    name = "taboo"
    version = 2
    roles = ROLES

    def __init__(
        self,
        words: str = "lexicon",
        limit: int | None = None,
        judge: Literal["strict", "legacy"] = "strict",
        breach: Literal["loss", "void"] = "loss",
        prompt: Literal["chat", "compact", "spag", "spag_utterance", "spag_rollout"] = "chat",
        turns: int = 5,
        retries: int = 1,
        validation: float = 0.1,
        test: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        _refuse(limit, judge, breach, prompt, turns, retries, validation, test)
        self.guide = TabooGuide()
        self.words, self.limit, self.split_seed = words, limit, split_seed
        self.judge, self.void, self.form = judge, breach == "void", FORMS[prompt]
        self.options = OPTIONS if prompt in PUBLISHED else Options()
        self.turns, self.retries, self.shares = turns, retries, (validation, test)
        self.facts = Facts(
            min_return=-1.0,
            max_return=1.0,
            max_requests=2 * turns * (1 + retries),
            max_retries=retries,
            metrics=METRICS,
        )
        self.files = {"words": words} if words not in ("lexicon", "top") else {}
        if self.files:
            self._splits  # noqa: B018  (reports a bad file now, not in the middle of a run)
        inflections("word")  # loads the dictionary now, not in the middle of a match

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The words of a split, shuffled by the split seed. Words with one lemma share a cluster."""
        return chosen(self._splits, split, f"{self.words} has too few words, give more or larger shares")

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; `seed` draws the random parts of the prompts."""
        word = scenario.data.get("word")
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"scenario {scenario.id!r} has no word: expected data {{'word': 'apple'}}")
        return GeneratorMatch(_Table(self, word, seed).conversation())

    def scripts(self) -> Mapping[str, Script]:
        """Players of increasing skill (naive, fair, skilled), and the demonstrator for tiny models (demo); none if some
        words are not in the lexicon."""
        return SCRIPTS if self._known else {}

    def associations(self, split: str, rows: int = 12) -> Iterator[tuple[str, tuple[Message, ...]]]:
        """Associations of each word of a split, as (kind, chat) with `rows` short chats to imitate
        (`lexicon.associations`), word by word. ValueError if some words are not in the lexicon."""
        if not self._known:
            raise ValueError(f"words={self.words}: only the lexicon's words have associations")
        for scenario in self.scenarios(split):
            yield from world.associations(
                scenario.data["word"], rng(self.split_seed, "associations", scenario.id), rows
            )

    @cached_property
    def _splits(self) -> Mapping[str, tuple[Scenario, ...]]:
        return lists.split(lists.targets(self.words, self.limit), self.split_seed, *self.shares)

    @cached_property
    def _known(self) -> bool:
        return all(each.data["word"] in world.lexicon().cues for found in self._splits.values() for each in found)


def _refuse(
    limit: object,
    judge: object,
    breach: object,
    prompt: object,
    turns: object,
    retries: object,
    validation: object,
    test: object,
) -> None:
    """ValueError that names every invalid argument."""
    faults = []
    for name, value, options in (
        ("judge", judge, JUDGES),
        ("breach", breach, ("loss", "void")),
        ("prompt", prompt, FORMS),
    ):
        if value not in options:
            faults.append(f"{name}={value!r}, expected {', '.join(options)}")
    for name, number, least in (
        ("turns", turns, 1),
        ("retries", retries, 0),
        ("limit", 1 if limit is None else limit, 1),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            faults.append(f"{name}={number!r}, expected a whole number of at least {least}")
    shares = [
        share
        for share in (validation, test)
        if isinstance(share, int | float) and not isinstance(share, bool) and share > 0
    ]
    if len(shares) < 2 or sum(shares) >= 1:
        faults.append(
            f"validation={validation!r} and test={test!r}, expected shares above 0 that leave some words to train on"
        )
    if faults:
        raise ValueError("Taboo: " + "; ".join(faults))


class _Table:
    """One match in progress."""

    def __init__(self, game: Taboo, word: str, seed: int) -> None:
        self.game, self.word, self.tally = game, word, Tally()
        self.judges = {name: make(word) for name, make in JUDGES.items()}
        self.views = {}
        for role in ROLES:
            brief = Brief(role, word if role == "attacker" else None, game.turns, game.void)
            self.views[role] = game.form(brief, rng(seed, "prompt", role))

    def conversation(self) -> Turns:
        """The whole match, as `GeneratorMatch` runs it."""
        try:
            outcome, blame = yield from self._talk()
        except Out as out:
            outcome, blame = out.outcome, out.blame
        return result(self.tally, outcome, blame, self.judges[self.game.judge], self.game.void)

    def _talk(self) -> Generator[Request, Reply, tuple[str, tuple[str, ...]]]:
        """(outcome, seats to blame)."""
        for turn in range(2 * self.game.turns):
            seat, other = ROLES[turn % 2], ROLES[1 - turn % 2]
            reply = yield from self._utterance(seat, left=self.game.turns - turn // 2)
            self._rule(seat, reply)
            ruled = self.tally.rulings.get(self.game.judge)
            if ruled is not None:
                return ruled, (seat,) if ruled == "breach" else ()
            self.views[other].partner(reply.text)
        return "tie", ()

    def _utterance(self, seat: str, left: int) -> Generator[Request, Reply, Reply]:
        """The next utterance of `seat`."""

        def judged(reply: Reply) -> Reply | Illegal:
            reason = _illegal(reply)
            if reason is None:
                return reply
            self.tally.retries[seat] += 1
            return Illegal(reason)

        seen = self._observation(seat, left)
        return legal(self.views[seat], judged, self.game.retries, self.tally.marks, seen, self.game.options)

    def _rule(self, seat: str, reply: Reply) -> None:
        """Lets the judges without a ruling judge an utterance."""
        self.tally.said.append((seat, reply.text))
        for name, judge in self.judges.items():
            ruled = None if name in self.tally.rulings else ruling(judge, seat, reply.text)
            if ruled is not None:
                self.tally.rulings[name] = ruled
                self.tally.marks.setdefault(reply.id, {})[name] = ruled

    def _observation(self, seat: str, left: int) -> dict[str, Any]:
        return {
            **({"word": self.word} if seat == "attacker" else {}),
            "history": [["you" if who == seat else "partner", text] for who, text in self.tally.said],
            "turns_left": left,  # of this seat, this one included
        }


def _illegal(reply: Reply) -> Reason | None:
    if reply.finish == "refusal":
        return "refusal"
    return None if reply.text.strip() else "empty"
