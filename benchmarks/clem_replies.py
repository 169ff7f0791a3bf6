"""Scripted replies for clembench's games, for clemcore's own runner and parley alike: it needs nothing of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from random import Random

TAGS = (
    "CLUE: ", "GUESS: ", "Expression: ", "Answer: first", "Answer: second", "Answer: third", "QUESTION: ",
    "ANSWER: yes", "ANSWER: no", "DESCRIPTION: ", "DECISION: same grid", "DECISION: different grids", "Instruction: ",
    "DONE", "GO: north", "GO: south", "GO: east", "GO: west", "guess: crane", "guess: house", "agreement: yes",
)  # fmt: skip
"""How replies begin; where a tag ends in a space, words that were shown follow."""


def reply(messages: Sequence[Mapping[str, str]]) -> str:
    """A reply that depends on nothing but what was shown: of the tags that were spoken of, one."""
    shown = "\n\n".join(f"{each['role']}: {each['content']}" for each in messages)
    own = Random(blake2b(shown.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    last = messages[-1]["content"]
    tag = own.choice(
        [tag for tag in TAGS if tag.split(":")[0] + ":" in last] or [t for t in TAGS if t[:4] in shown] or TAGS
    )
    words = [word for word in last.split() if word.isalpha() and word.islower()] or ["thing"]
    text = tag if tag[-1] != " " else tag + " ".join(own.choice(words) for _ in range(own.randrange(1, 3)))
    return text if own.random() < 0.97 else "so?"


def merged(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Neighbours of one speaker joined, as clemcore's backends do."""
    found: list[dict[str, str]] = []
    for each in messages:
        if found and found[-1]["role"] == each["role"]:
            found[-1] = {**found[-1], "content": found[-1]["content"] + "\n\n" + each["content"]}
        else:
            found.append(dict(each))
    return found
