"""The grammar of actions; checks and parses a reply in one pass.

    action    = "[message]" text | "[propose]" numbers, with an optional "[END]"; later text is ignored
    numbers   = each of books, hats, balls once, with its number before (2 books) or after it (books 2)

Case, singular or plural, brackets and commas do not matter (a word-level tokenizer puts blanks around them). A second
tag anywhere, a missing item, a negative, fractional or additional number, or any other word makes a proposal illegal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .contexts import ITEMS, Triple

Reason: TypeAlias = Literal[
    "prefix", "tags", "empty", "must_propose", "too_early", "items", "range", "length", "refusal"
]
"""Why a reply is illegal: no tag at its start; more than one; no text; a message after the partner's proposal; a
proposal before anything was said; not the three items with a number each; a number that is not on the table; cut off;
refused."""
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Said:
    """A legal message: its text without the tag."""

    text: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """A legal proposal: what the proposer wants to have."""

    share: Triple


@dataclass(frozen=True, slots=True)
class Fault:
    """An illegal reply."""

    reason: Reason


Action: TypeAlias = Said | Proposed | Fault

_TAG = re.compile(r"\[\s*(message|propose)\s*\]", re.IGNORECASE)
_END = re.compile(r"\[\s*end\s*\]", re.IGNORECASE)
_WORD = re.compile(r"-?[0-9]+|\.[0-9]+|[a-z]+|\S")
_FILLER = frozenset("(),.;:=") | {"and"}
_ITEM = {name: index for index, plural in enumerate(ITEMS) for name in (plural, plural[:-1])}


def parse(text: str, counts: Triple, *, opened: bool, must_propose: bool) -> Action:
    """Parses `text` to an action. `opened`: there was a message before; `must_propose`: the partner has proposed."""
    text = _END.split(text, maxsplit=1)[0].strip()
    tags = list(_TAG.finditer(text))
    if not tags or tags[0].start():
        return Fault("prefix")
    if len(tags) > 1:
        return Fault("tags")
    body = text[tags[0].end() :].strip()
    if tags[0][1].lower() == "propose":
        return _proposal(body, counts) if opened else Fault("too_early")
    if must_propose:
        return Fault("must_propose")
    return Said(body) if body else Fault("empty")


def _proposal(body: str, counts: Triple) -> Action:
    """Parses "hats 1 books 2 balls 0" or "1 hat 2 books 0 balls"."""
    words = [word for word in _WORD.findall(body.lower()) if word not in _FILLER]
    numbers, names = words[::2], words[1::2]
    if words and words[0] in _ITEM:
        names, numbers = numbers, names
    share = [-1, -1, -1]
    if len(words) != 6 or {_ITEM.get(name) for name in names} != {0, 1, 2}:
        return Fault("items")
    for name, number in zip(names, numbers, strict=True):
        if not (number.isascii() and number.lstrip("-").isdigit()):
            return Fault("items")
        share[_ITEM[name]] = int(number) if len(number) < 4 else -1  # no count has four digits
    if not all(0 <= claimed <= count for claimed, count in zip(share, counts, strict=True)):
        return Fault("range")
    return Proposed((share[0], share[1], share[2]))
