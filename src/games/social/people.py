"""Characters and tasks, and who may know what of whom.

A task is a situation, the relationship of the characters and the goal of each. It is plain JSON in a scenario's data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from ..base import Json

RELATIONSHIPS = ("strangers", "know each other by name", "acquaintances", "friends", "a couple", "family")
Form: TypeAlias = Literal["corrected", "faithful"]
UNKNOWN = "Unknown"
_HINT = re.compile(r"</?(?:extra_info|clarification_hint|strategy_hint)>")
_VIEWED = re.compile(r"""<p viewer=["']([\w-]+)["']>(.*?)</p>""", re.S)
_TAG = re.compile(r"</?[A-Za-z_]+(?: [^<>]*)?>")
_ADJECTIVES = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}


@dataclass(frozen=True, slots=True)
class Person:
    """A character. `secret` is for the character alone, `personality` for those who know it well."""

    name: str
    age: int = 0
    occupation: str = ""
    gender: str = ""
    pronouns: str = ""
    public: str = ""
    personality: str = ""
    secret: str = ""
    id: str = ""

    def bio(self, level: int) -> str:
        """What somebody reads who knows this much: 0 nothing, 1 the name, 2 what is public, 3 the personality, too,
        4 the secret, too."""
        if level < 2:
            return self.name if level else ""
        facts = [f"{self.age}-year-old"] if self.age else []
        facts += [_ADJECTIVES.get(self.gender, self.gender), self.occupation.lower()]
        told = " ".join(word for word in facts if word)
        parts = [f"{self.name} is a {told}." if told else f"{self.name}."]
        parts += [f"{self.pronouns} pronouns."] if self.pronouns else []
        parts += [self.public] if self.public else []
        parts += [f"Personality and values: {self.personality}"] if level > 2 and self.personality else []
        parts += [f"Secret: {self.secret}"] if level > 3 and self.secret else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Task:
    """A social task: `goals` has one for each of `people`; `relationship` is a place in RELATIONSHIPS. `ends` is the
    number of turns that a recorded episode had, after which it is over; None where the rules decide."""

    situation: str
    relationship: int
    goals: tuple[str, ...]
    people: tuple[Person, ...]
    environment: str = ""
    codename: str = ""
    ends: int | None = None

    def to_json(self) -> dict[str, Json]:
        """The data of a scenario."""
        return {**asdict(self), "goals": list(self.goals), "people": [asdict(each) for each in self.people]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Reads what `to_json` wrote. KeyError, TypeError or ValueError for anything else."""
        people = tuple(Person(**each) for each in data["people"])
        task = Task(**{**data, "goals": tuple(data["goals"]), "people": people})
        names = [person.name for person in people]
        if len(people) < 2 or len(people) != len(task.goals):
            raise ValueError(
                f"{len(people)} people and {len(task.goals)} goals, expected a goal for each of at least two"
            )
        if len(set(names)) < len(names) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"the names {names} do not tell the people apart")
        if task.relationship not in range(len(RELATIONSHIPS)):
            raise ValueError(f"relationship {task.relationship!r}, expected 0 to {len(RELATIONSHIPS) - 1}")
        return task

    @property
    def names(self) -> tuple[str, ...]:
        """The characters' names, in the order of their seats."""
        return tuple(person.name for person in self.people)

    def levels(self, viewer: int | None, form: Form = "corrected") -> tuple[int, ...]:
        """How much `viewer` (None: the judge, who knows all) knows of each character, as `Person.bio` takes it.

        The published rule: strangers know nothing of the other, those who know each other by name the name,
        acquaintances all but personality and secret, everybody else all but the secret. In the faithful form, as
        published in January 2024, strangers lose their own background, too.
        """
        other = min(self.relationship, 3)
        own = 0 if form == "faithful" and self.relationship == 0 else 4
        return tuple(4 if viewer is None else own if viewer == seat else other for seat in range(len(self.people)))

    def context(self, viewer: int | None, form: Form = "corrected") -> str:
        """What `viewer` reads before the first turn, a line for each fact. Goals of others are unknown."""
        seer = "environment" if viewer is None else f"agent_{viewer + 1}"
        lines = [
            f"Scenario: {seen(self.situation, seer)}",
            f"Participants: {_listed(self.names)}",
        ]
        for person, level in zip(self.people, self.levels(viewer, form), strict=True):
            lines.append(f"{person.name}'s background: {seen(person.bio(level), seer) or UNKNOWN}")
        for seat, (name, goal) in enumerate(zip(self.names, self.goals, strict=True)):
            lines.append(f"{name}'s goal: {seen(goal, seer) if viewer in (None, seat) else UNKNOWN}")
        return "\n".join(lines)

    def hidden(self, viewer: int) -> list[str]:
        """What only `viewer` may know, as it reads it: nobody else is shown these texts before it has said them."""
        person, goal = self.people[viewer], seen(self.goals[viewer], f"agent_{viewer + 1}")
        level = min(self.relationship, 3)
        own = [goal, person.secret, *([person.personality] * (level < 3)), *([person.public] * (level < 2))]
        others = [(f"agent_{seat + 1}", goal) for seat, goal in enumerate(self.goals) if seat != viewer]
        shared = "\n".join(seen(f"{self.situation}\n{theirs}", seer) for seer, theirs in others).casefold()
        return [text for text in own if text and text.casefold() not in shared]


def seen(text: str, viewer: str) -> str:
    """`text` as `viewer` (agent_1, …, environment) reads it: spans for another viewer are gone, and so are the tags.

    The environment reads everything."""
    shown = _VIEWED.sub(lambda span: span[2] if viewer in (span[1], "environment") else "", text)
    return _TAG.sub("", _HINT.sub("", shown)).strip()


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
