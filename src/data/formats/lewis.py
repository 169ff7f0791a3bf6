"""Reads the human negotiations of Lewis et al. 2017 (Deal or No Deal, arXiv 1706.05125) as chats to imitate.

The published folder holds `train.txt` and `val.txt`, one line for each dialogue and player, words separated by blanks:

    <input> own context </input> <dialogue> YOU: … <eos> THEM: … <eos> YOU: <selection> </dialogue>
    <output> itemK=N, own three, then the partner's three </output> <partner_input> the partner's context
    </partner_input>

A context is `count value` of books, hats and balls. If the players did not agree, the output is <disagree>,
<no_agreement> or <disconnect> six times and no selection is known. The licence of the files forbids passing them on:
nothing is downloaded or copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from pathlib import Path

from ...games.base import Game, Message, Reply
from ...games.deal.contexts import Context, Triple
from ...games.deal.scoring import ROLES
from ...games.deal.scripts import spell
from ...system.files import InputError, read_lines

NO_DEAL = ("<disagree>", "<no_agreement>", "<disconnect>")

_LINE = re.compile(
    r"<input> (.+) </input> <dialogue> (.+) </dialogue> <output> (.+) </output> <partner_input> (.+) </partner_input>",
    re.ASCII,
)
_SPEAKER = {"YOU:": 0, "THEM:": 1}
_NOUNS = (
    (("book",), ("hat",), ("ball", "basketball")),
    (("books",), ("hats",), ("balls", "basketballs")),
)  # one, several
_ORDERS = tuple(permutations(range(3)))
_ITEM = re.compile(r"item([012])=([0-9]{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One line. The first player of `context` is the first speaker; `seat` is the player whose view the line shows.

    `utterances` alternate, beginning with the first player. `shares` are the selections of the first and second player,
    None if unknown; then `outcome` is one of NO_DEAL, else "deal".
    """

    context: Context
    seat: str
    utterances: tuple[str, ...]
    shares: tuple[Triple, Triple] | None
    outcome: str

    def replies(self) -> list[str]:
        """The replies of both seats in the game's syntax: the messages, then the selections as proposals."""
        told = [f"[message] {text}" for text in self.utterances]
        if self.shares is None:
            return told
        one = len(told) % 2  # the player who did not speak last is next
        return [*told, *(f"[propose] {spell(self.shares[player])}" for player in (one, 1 - one))]


def relabelled(dialogue: Dialogue, order: Triple) -> Dialogue:
    """The same negotiation with item k replaced by item `order[k]` in the context, the words and the selections."""
    names = {
        noun: forms[order[item]][0]
        for forms in _NOUNS
        for item in range(3)
        if order[item] != item
        for noun in forms[item]
    }

    def moved(numbers: Triple) -> Triple:
        a, b, c = (numbers[order.index(item)] for item in range(3))
        return a, b, c

    one, other = dialogue.context.values
    return replace(
        dialogue,
        context=Context(moved(dialogue.context.counts), (moved(one), moved(other))),
        utterances=tuple(" ".join(names.get(word, word) for word in text.split()) for text in dialogue.utterances),
        shares=dialogue.shares and (moved(dialogue.shares[0]), moved(dialogue.shares[1])),
    )


def read(path: str | Path) -> Iterator[Dialogue]:
    """The dialogues of a file, one per line. InputError names the file and the invalid line."""
    number = 0
    for number, line in read_lines(path):
        try:
            yield parse(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not number:
        raise InputError(f"{path} is empty, expected one dialogue in each line")


def parse(line: str) -> Dialogue:
    """Parses one line; ValueError says what is wrong."""
    parts = _LINE.fullmatch(line.strip())
    if parts is None:
        raise ValueError(
            "torn or foreign, expected <input> … </input> <dialogue> … </dialogue> <output> … </output> "
            "<partner_input> …"
        )
    speakers, utterances = _turns(parts[2].split())
    you = speakers[0]  # 0: the line's player spoke first, and is the first player
    (counts, own), (again, theirs) = _context(parts[1]), _context(parts[4])
    context = Context(counts, (own, theirs) if you == 0 else (theirs, own))
    if fault := (context.fault() if counts == again else f"counts are {list(counts)}, and the partner's {list(again)}"):
        raise ValueError(fault)
    shares, outcome = _output(parts[3].split())
    if shares is not None and you == 1:
        shares = shares[::-1]
    return Dialogue(context, ROLES[you], utterances, shares, outcome)


def view(game: Game, dialogue: Dialogue) -> tuple[tuple[Message, ...], frozenset[int]]:
    """(the chat of the dialogue's seat in `game`, with its own last reply; the positions of the partner's messages in
    it).

    ValueError if the game refuses a reply or ends too early.
    """
    match = game.match(dialogue.context.scenario(), 0)
    messages: tuple[Message, ...] = ()
    spoken: set[int] = set()
    asked, replies = match.start(), dialogue.replies()
    for number, text in enumerate(replies):
        if not asked:
            raise ValueError(f"the game is over after {number} of {len(replies)} actions: give it a larger max_actions")
        request = asked[0]
        asked = match.step([Reply(request.id, text)])
        if any(each.kind != "act" for each in asked):
            raise ValueError(f"the game refuses {text[:60]!r}")
        if request.seat == dialogue.seat:
            messages = (*request.messages, Message("assistant", text, request.id))
        elif asked:  # our turn: the last message to us is the partner's move
            messages = asked[0].messages
            spoken |= {len(messages) - 1} if number < len(dialogue.utterances) else set()
    return messages, frozenset(spoken)


def _turns(words: Iterable[str]) -> tuple[list[int], tuple[str, ...]]:
    """(the speaker of each turn, the words of each utterance). The last turn is the selection and has no words."""
    speakers: list[int] = []
    turns: list[list[str]] = []
    for word in words:
        if word in _SPEAKER:
            speakers.append(_SPEAKER[word])
            turns.append([])
        elif not turns:
            raise ValueError(f"the dialogue begins with {word!r}, expected YOU: or THEM:")
        else:
            turns[-1].append(word)
    if any(before == after for before, after in pairwise(speakers)):
        raise ValueError("somebody speaks twice running, expected YOU: and THEM: in turn")
    if len(turns) < 2 or turns[-1] != ["<selection>"]:
        raise ValueError("the dialogue does not end with a turn that is <selection>, after at least one utterance")
    for turn in turns[:-1]:
        if len(turn) < 2 or "<eos>" in turn[:-1] or turn[-1] != "<eos>":
            raise ValueError(f"the turn {' '.join(turn)[:60]!r} is not words and then <eos>")
    return speakers, tuple(" ".join(turn[:-1]) for turn in turns[:-1])


def _context(text: str) -> tuple[Triple, Triple]:
    words = text.split()
    if len(words) != 6 or not all(word.isascii() and word.isdigit() and len(word) < 4 for word in words):
        raise ValueError(f"{text[:60]!r} is no context, expected six integers: count and value of books, hats, balls")
    a, x, b, y, c, z = map(int, words)
    return (a, b, c), (x, y, z)


def _output(words: Sequence[str]) -> tuple[tuple[Triple, Triple] | None, str]:
    """((own share, partner's share), "deal"), or (None, the reason)."""
    if len(words) == 6 and len(set(words)) == 1 and words[0] in NO_DEAL:
        return None, words[0]
    items = [found for word in words if (found := _ITEM.fullmatch(word))]
    if len(words) != 6 or [found[1] for found in items] != ["0", "1", "2"] * 2:
        wanted = f"item0=N item1=N item2=N twice, or one of {', '.join(NO_DEAL)} six times"
        raise ValueError(f"{' '.join(words)[:60]!r} is no output, expected {wanted}")
    a, b, c, x, y, z = (int(found[2]) for found in items)
    return ((a, b, c), (x, y, z)), "deal"
