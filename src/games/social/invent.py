"""Generates social tasks: a game for one seat, the writer, which turns a short prompt into a situation with two goals.

The prompt has an existing environment as an example, and a text for inspiration, as in Sotopia-π (arXiv:2403.08715). A
reply is refused with a reason if it is no task, has similar goals, no point of disagreement, a character's name, or
nearly repeats an existing task. Accepted tasks are the mark {"task": …} of their reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Json,
    Marks,
    Match,
    Options,
    Out,
    Reply,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    legal,
)
from .people import RELATIONSHIPS, seen

WRITER = "writer"
ALIKE = 0.6  # share of common words above which two texts count as duplicates
_WORD = re.compile(r"[^\W\d_]+")
_SMALL = """a an and are as at be by for from have his her in is it its of on or so that the their them they this to
want wants with you your"""
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "scenario": {"type": "string", "minLength": 20, "maxLength": 400},
        "relationship": {"type": "integer", "minimum": 0, "maximum": len(RELATIONSHIPS) - 1},
        "disagreement": {"type": "string", "minLength": 10, "maxLength": 200},
        "agent_goals": {
            "type": "array", "minItems": 2, "maxItems": 2,
            "items": {"type": "string", "minLength": 10, "maxLength": 300},
        },
    },
    "required": ["scenario", "relationship", "disagreement", "agent_goals"],
    "additionalProperties": False,
}  # fmt: skip
PART = f"""\
You invent social situations for role-play. You are shown an example and a few words to be inspired by. Write another \
situation, not a copy: two people of any age and gender, without names or occupations, each with a goal of its own \
that the other does not know, and a point on which they disagree at first and could come to terms. relationship is a \
number: {", ".join(f"{number} {name}" for number, name in enumerate(RELATIONSHIPS))}.
Answer with one JSON object with scenario, relationship, disagreement and agent_goals, a list of two texts, and \
nothing else."""


class Invention:
    """The game. Each of `prompts` ({"prompt", "source"}) is a scenario, with one of the `known` environments as its
    example; `names` are the characters' names, which no situation may contain."""

    name = "invention"
    version: int | str = 1
    roles: tuple[str, ...] = (WRITER,)

    def __init__(
        self,
        prompts: Sequence[Mapping[str, Json]],
        known: Sequence[Mapping[str, Any]],
        names: Iterable[str],
        retries: int = 1,
    ) -> None:
        self.prompts, self.retries = prompts, retries
        self.known = [(words(seen(row["scenario"], "environment")), row) for row in known]
        self.names = frozenset(name.casefold() for name in names)
        self.facts = Facts(
            0, 0, 1 + retries, retries, metrics={"kept_rate": "1 if a task was accepted"}, held_out=False
        )

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """A scenario for each prompt."""
        return [
            Scenario(f"task-{number:05d}", {**each, "example": self._example(number)})
            for number, each in enumerate(self.prompts)
        ]

    def _example(self, number: int) -> Json:
        _, row = self.known[number % len(self.known)]
        return {key: row[key] for key in ("scenario", "relationship", "agent_goals")}

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario))

    def scripts(self) -> Mapping[str, Script]:
        return {}

    def _turns(self, scenario: Scenario) -> Turns:
        view, marks = View(WRITER, PART), Marks()
        example = json.dumps(scenario.data["example"], ensure_ascii=False)
        view.tell(f"Example: {example}\nBe inspired by: {scenario.data['prompt']}")

        def read(reply: Reply) -> Mapping[str, Json] | Illegal:
            found = task(reply.text, self.names)
            if not isinstance(found, Illegal):
                found = self._fresh(found)
            if not isinstance(found, Illegal):
                marks[reply.id] = {"task": found}
            return found

        try:
            yield from legal(view, read, self.retries, marks, options=Options(schema=SCHEMA))
        except Out as out:
            return Result({WRITER: 0.0}, out.outcome, blame=out.blame, metrics={"kept_rate": 0.0}, marks=marks)
        return Result({WRITER: 0.0}, "kept", metrics={"kept_rate": 1.0}, marks=marks)

    def _fresh(self, found: Mapping[str, Json]) -> Mapping[str, Json] | Illegal:
        own = words(found["scenario"])
        if any(alike(own, other) for other, _ in self.known):
            return Illegal("near-duplicate", "That situation is there already. Invent another one.")
        return found


def task(text: str, names: frozenset[str] = frozenset()) -> Mapping[str, Json] | Illegal:
    """The task in a reply, with scenario, relationship, disagreement and agent_goals; else the reason of a refusal."""
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError):
        return Illegal("no JSON", "That is no JSON object. Answer with the object alone.")
    scenario, goals, point = found.get("scenario"), found.get("agent_goals"), found.get("disagreement")
    relationship = found.get("relationship")
    if not isinstance(scenario, str) or len(words(scenario)) < 3:
        return Illegal("no scenario", "scenario must tell the situation in a sentence.")
    if type(relationship) is not int or relationship not in range(len(RELATIONSHIPS)):
        return Illegal("no relationship", f"relationship must be a whole number from 0 to {len(RELATIONSHIPS) - 1}.")
    if (
        not isinstance(goals, list)
        or len(goals) != 2
        or not all(isinstance(goal, str) and words(goal) for goal in goals)
    ):
        return Illegal("not two goals", "agent_goals must be a list of two texts.")
    if alike(words(goals[0]), words(goals[1])):
        return Illegal("goals alike", "The two goals are nearly the same. Each person needs a goal of its own.")
    if not isinstance(point, str) or not words(point) & words(" ".join([scenario, *goals])):
        return Illegal("no conflict", "disagreement must say on what of the situation the two disagree at first.")
    if called := sorted(names & {word.casefold() for word in _WORD.findall(" ".join([scenario, *goals]))}):
        return Illegal("a name", f"Leave out names: {called[0]} is one.")
    return {
        "scenario": scenario.strip(),
        "relationship": relationship,
        "disagreement": point.strip(),
        "agent_goals": goals,
    }


def invented(result: Result) -> Mapping[str, Json] | None:
    """The task in the result of a match; None if none was accepted."""
    return next((mark["task"] for mark in result.marks.values() if "task" in mark), None)


def words(text: str) -> frozenset[str]:
    """The content words of a text, in lower case."""
    return frozenset(word.casefold() for word in _WORD.findall(text)).difference(_SMALL.split())


def alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts have so many words in common that they count as duplicates."""
    return len(one & other) >= ALIKE * max(1, min(len(one), len(other)))
